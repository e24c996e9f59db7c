"""`grounding segment` with a diffusers folder, from the picture to the mask."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from evals.scenes import draw_samples
from grounding.cli import main
from grounding.diffusion.tiny import tiny_pipeline
from grounding.model_files import STARTERS, starter_folder
from pipelines.referring import ReferringSegmentation, method_for


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "flux"
    tiny_pipeline("FluxPipeline").save_pretrained(folder)
    return folder


@pytest.fixture
def segment(tiny_segmenter, tmp_path, capsys):
    def run(model, *words):
        models = ["--model", str(model), "--segmenter", str(tiny_segmenter), "--device", "cpu"]
        code = main(["segment", *map(str, words), *models, "--out", str(tmp_path / "out")])
        return code, *capsys.readouterr()

    return run


def test_a_picture_becomes_a_mask(segment, flux_folder, pictures, tmp_path):
    (flux_folder / "grounding.json").write_text(json.dumps({"notice": "It knows noise only."}))
    code, out, err = segment(flux_folder, pictures / "a.png", "the red dog", "--json")
    (flux_folder / "grounding.json").unlink()
    assert code == 0
    record = json.loads(out)
    assert record["image_size"] == [130, 90]
    assert record["segments"][0]["segmentation"]["size"] == [90, 130]
    assert "note: It knows noise only." in err
    assert "Loading pipeline" not in err
    assert "diffusion" in (tmp_path / "out" / "run.json").read_text()


def test_the_point_is_the_highest_cell_of_the_map(flux_folder, tiny_segmenter, pictures):
    pipe = ReferringSegmentation.from_pretrained(str(flux_folder), str(tiny_segmenter), device="cpu")
    result = pipe(pictures / "a.png", "the red dog")
    height, width = result.map.values.shape
    assert (height, width) == (4, 4)
    row, column = divmod(int(result.map.values.argmax()), width)
    x, y = result.points.xy[0]
    assert (x, y) == pytest.approx(((column + 0.5) * 130 / width, (row + 0.5) * 90 / height))


def test_a_pipeline_gets_the_diffusion_method(flux_folder):
    assert method_for(str(flux_folder)).name == "diffusion"
    assert method_for(str(flux_folder), "relative").name == "relative"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a very " * 40 + "red dog", "takes 24: shorten it"),
        ("the", "stop words alone"),
        ("dog ☃", "outside the vocabulary"),
    ],
)
def test_bad_expressions_leave_nothing_behind(segment, flux_folder, pictures, tmp_path, words, message):
    code, _, err = segment(flux_folder, pictures / "a.png", words)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_a_method_that_reads_what_diffusion_does_not_have_is_refused(segment, flux_folder, pictures):
    code, _, err = segment(flux_folder, pictures / "a.png", "red dog", "--method", "default")
    assert code == 2
    assert "a diffusion transformer has none" in " ".join(err.split())


@pytest.mark.parametrize("method", ["refam", "refam-page"])
def test_magnets_are_appended_and_dropped_again(segment, flux_folder, pictures, method):
    words = "the red dog on the left"
    code, out, _ = segment(flux_folder, pictures / "a.png", words, "--method", method, "--json")
    assert code == 0
    stages = {report["stage"]: report for report in json.loads(out)["stages"]}
    assert stages["magnets"]["removed"] > 0.1
    assert "left" in stages["stop-words"]["detail"]
    if method == "refam":
        assert stages["spatial-bias"]["detail"] == "weighted towards left"


def test_magnets_that_a_model_cannot_take_are_refused(segment, flux_folder, tiny_model, pictures, tmp_path):
    other = tmp_path / "odd.yaml"
    magnets = "  - {stage: magnets, words: [with, ☃]}\n"
    other.write_text(f"description: d\nsource: s\nstages:\n{magnets}  - stage: combine\n", encoding="utf-8")
    code, _, err = segment(flux_folder, pictures / "a.png", "red dog", "--method", other)
    assert (code, "the magnet '☃' is outside the vocabulary" in " ".join(err.split())) == (2, True)
    code, _, err = segment(tiny_model, pictures / "a.png", "red dog", "--method", "refam")
    assert (code, "use a diffusion transformer" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("method", "edit"),
    [
        ("concept-attention", ("background: [background", "background: [dog, background")),
        ("daam", ("", "")),
        ("concept-attention-prompt", ("", "")),
        ("refam", ("stage: text-sinks", "stage: text-sinks\n    handling: mask\n    strongest: 1")),
        ("refam", ("stage: text-sinks", "stage: text-sinks\n    handling: redirect\n    share: 0.5\n    variation: 9")),
    ],
)
def test_other_readouts_and_edits_of_sinks_segment(segment, flux_folder, tiny_model, pictures, tmp_path, method, edit):
    text = resources.files("configs").joinpath("methods", f"{method}.yaml").read_text("utf-8").replace(*edit)
    mine = tmp_path / "mine.yaml"
    mine.write_text(text, encoding="utf-8")
    code, out, err = segment(flux_folder, pictures / "a.png", "the red cat", "--method", mine, "--json", "--explain")
    assert code == 0, err
    assert json.loads(out)["points"]
    code, _, err = segment(tiny_model, pictures / "a.png", "the red cat", "--method", mine)
    assert code == 2
    assert "diffusion transformer" in " ".join(err.split())


def test_a_missing_text_encoder_is_refused(segment, flux_folder, pictures, tmp_path):
    broken = Path(shutil.copytree(flux_folder, tmp_path / "broken"))
    shutil.rmtree(broken / "text_encoder_2")
    code, _, err = segment(broken, pictures / "a.png", "red dog")
    assert code == 2
    assert "has no text encoder 'text_encoder_2'" in " ".join(err.split())


def test_describe_refuses_a_pipeline(flux_folder, pictures, capsys, tmp_path):
    code = main(["describe", str(pictures / "a.png"), "--model", str(flux_folder), "--out", str(tmp_path / "out")])
    assert code == 2
    assert "needs a vision-language model" in " ".join(capsys.readouterr().err.split())


def test_the_starter_points_at_what_is_named(tiny_segmenter):
    """The packaged model by its name, with its own method, on scenes it was not trained on."""
    assert "starter-dit" in STARTERS
    assert starter_folder("starter-dit").parts[-3:] == ("starter", "dit", "weights")
    pipe = ReferringSegmentation.from_pretrained("starter-dit", str(tiny_segmenter), device="cpu")
    assert pipe.source.notice
    hits = []
    for sample in draw_samples(seed=11, limit=12):
        x, y = pipe(sample.image, sample.expression).points.xy[0]
        hits.append(bool(sample.truth[int(y), int(x)]))
    assert sum(hits) >= 8, hits  # chance is about one in ten
