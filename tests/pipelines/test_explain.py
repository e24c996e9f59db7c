"""`explain=True` and `grounding segment --explain`, from the model to the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from grounding.cli import main
from grounding.errors import OutputError
from grounding.io import decode_mask
from grounding.methods import load_method
from grounding.segmenters.specks import without_specks
from grounding.viz_explanation import WIDTH
from pipelines.referring import ReferringSegmentation


@pytest.fixture
def explaining(loaded):
    return lambda method="relative": ReferringSegmentation(*loaded, load_method(method), 2, explain=True)


@pytest.fixture
def segment(tiny_model, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with the tiny models: exit code, stdout, stderr, and the folder."""

    def run(*words, out="out", model=tiny_model, method="plain-mean"):
        models = ["--model", str(model), "--segmenter", str(tiny_segmenter), "--method", method, "--device", "cpu"]
        code = main(["segment", *map(str, words), *models, "--out", str(tmp_path / out)])
        return code, *capsys.readouterr(), tmp_path / out

    return run


def test_the_explained_result_is_the_plain_one_and_says_how_it_came_about(make_pipe, explaining, pictures):
    plain, found = (pipe(pictures / "a.png", "the red dog") for pipe in (make_pipe("relative"), explaining()))
    assert plain.explanation is None
    shown = found.explanation
    assert shown.trace.map == found.map == plain.map
    assert shown.points == found.points == plain.points
    np.testing.assert_array_equal(found.segments[0].mask, plain.segments[0].mask)
    cleaned = without_specks(shown.chosen.mask, explaining().method.mask.specks)
    np.testing.assert_array_equal(cleaned, found.segments[0].mask)
    assert shown.chosen.estimated_iou == found.segments[0].score
    assert len(shown.candidates) == 3
    assert [one.word.text for one in shown.trace.words][:3] == ["the", "red", "dog"]
    assert tuple(one.report for one in shown.trace.stages) == found.stages


def test_a_result_is_saved_as_a_sheet_and_json(explaining, pictures, tmp_path):
    result = explaining()(pictures / "a.png", "the “red” dog")
    sheet, data = result.save(tmp_path, formats="explain")
    assert (sheet.name, data.name) == ("the-red-dog.explain.png", "the-red-dog.explain.json")
    with Image.open(sheet) as picture:
        assert picture.width == WIDTH
    text = data.read_text()
    assert json.loads(text) == json.loads(json.dumps(result.explanation.to_json()))
    assert "\n        [0" in text  # a row of a map is a line, not one line per number
    assert json.loads(text)["expression"] == 'the "red" dog'


def test_without_an_explanation_the_format_is_refused_before_anything_is_written(make_pipe, pictures, tmp_path):
    result = make_pipe()(pictures / "a.png", "dog")
    with pytest.raises(OutputError, match="explain=True"):
        result.save(tmp_path / "out", formats=("png", "explain"))
    assert not (tmp_path / "out").exists()


def test_every_result_of_a_command_is_explained(segment, pictures):
    code, _, _, out = segment(pictures / "a.png", pictures / "b.png", "the red dog", "--explain")
    assert code == 0
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        png, sheet, data = line["files"]
        assert (png[-4:], sheet[-12:], data[-13:]) == (".png", ".explain.png", ".explain.json")
        assert (out / sheet).is_file()
        shown = json.loads((out / data).read_text())
        chosen = next(one for one in shown["candidates"] if one["chosen"])
        assert shown["points"] == line["points"]
        cleaned = without_specks(decode_mask(chosen["segmentation"]), load_method("plain-mean").mask.specks)
        np.testing.assert_array_equal(cleaned, decode_mask(line["segments"][0]["segmentation"]))


def test_the_flag_and_the_format_are_one(segment, pictures):
    *_, flag = segment(pictures / "a.png", "dog", "--explain", "--formats", "explain", out="flag")
    *_, form = segment(pictures / "a.png", "dog", "--formats", "explain", out="form")
    left, right = ({file.name: file.read_bytes() for file in folder.glob("*.explain.*")} for folder in (flag, form))
    assert len(left) == 2
    assert left == right


def test_a_manifest_that_is_done_without_explanations_is_done_again_with_them(segment, pictures, tmp_path):
    manifest = tmp_path / "list.jsonl"
    items = [{"image": str(pictures / f"{name}.png"), "expression": "dog"} for name in "ab"]
    manifest.write_text("".join(json.dumps(item) + "\n" for item in (*items, {**items[0], "image": "none.png"})))
    assert segment("--manifest", manifest)[0] == 1  # one of three is missing
    code, _, err, out = segment("--manifest", manifest, "--explain")
    assert code == 1
    assert "2 done in" in err
    assert len(list(out.glob("*.explain.png"))) == len(list(out.glob("*.explain.json"))) == 2
    next(out.glob("*.explain.json")).unlink()
    assert "1 were there already" in segment("--manifest", manifest, "--explain")[2]
    assert len(list(out.glob("*.explain.json"))) == 2


def test_a_diffusion_transformer_is_explained_the_same_way(segment, pictures, tmp_path):
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    from grounding.diffusion.tiny import tiny_pipeline

    tiny_pipeline("FluxPipeline").save_pretrained(tmp_path / "flux")
    words = (pictures / "a.png", "the red dog", "--formats", "explain")
    code, *_, out = segment(*words, model=tmp_path / "flux", method="auto")
    assert code == 0
    shown = json.loads(next(out.glob("*.explain.json")).read_text())
    assert shown["direction"] == "image-to-word"
    assert sum(one["share"] for one in shown["words"]) == pytest.approx(1, abs=1e-4)
    fates = {one["word"]: one["dropped"] and one["dropped"]["stage"] for one in shown["words"]}
    assert (fates["the"], fates["red"], fates["dog"], fates["</s>"]) == ("stop-words", None, None, "rows")
    assert next(out.glob("*.explain.png")).stat().st_size > 10_000
