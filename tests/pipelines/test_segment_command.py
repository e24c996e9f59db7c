from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from grounding.cli import main
from grounding.errors import UsageError
from grounding.layout import ImageGrid
from grounding.viz import NEGATIVE
from pipelines.commands.segment import SegmentCommand
from pipelines.results import picture_notes


@pytest.fixture
def segment(tiny_model, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with the tiny models: (exit code, stdout, stderr)."""

    def run(*words, method="plain-mean"):
        models = ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter), "--method", method]
        code = main(["segment", *map(str, words), *models, "--out", str(tmp_path / "out")])
        return code, *capsys.readouterr()

    return run


def test_one_image_and_its_words(segment, pictures, tmp_path):
    code, out, err = segment(pictures / "a.png", "the red dog", "--formats", "png", "coco", "npz")
    assert code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    stem = names[0].removesuffix(".npz")
    assert stem.startswith("a-the-red-dog-")
    assert names == sorted(
        [f"{stem}.npz", f"{stem}.png", "coco_images.json", "coco_results.json", "results.jsonl", "run.json"]
    )
    assert out.startswith(str(tmp_path / "out" / f"{stem}.png"))
    assert re.search(r"1 done in [\d.]+ s \(load [\d.]+ s, model [\d.]+ s, segmenter [\d.]+ s\)", err)


def test_the_mask_and_the_object_alone(segment, pictures, tmp_path):
    code, out, _ = segment(pictures / "a.png", "the red dog", "--formats", "cutout", "mask")
    assert code == 0
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    mask, cutout = line["files"]
    assert (mask[-9:], cutout[-11:]) == (".mask.png", ".cutout.png")
    assert out.startswith(str(tmp_path / "out" / mask))
    with Image.open(tmp_path / "out" / mask) as picture:
        assert picture.size == tuple(line["image_size"])
        assert np.count_nonzero(picture) == line["segments"][0]["area"]


def test_json_is_the_items_lines_with_their_seconds_and_nothing_else(segment, pictures, tmp_path):
    code, out, _ = segment(pictures / "a.png", pictures / "b.png", "dog", "--json")
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["image"] for record in records] == [str(pictures / "a.png"), str(pictures / "b.png")]
    seconds = [record.pop("seconds") for record in records]
    assert records == [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    for one in seconds:
        assert list(one) == ["load", "attention", "stages", "encode", "mask"]
        assert min(one["load"], one["attention"], one["encode"]) > 0


def test_the_segmenters_estimate_is_not_printed_as_if_it_told_right_from_wrong(segment, pictures, tmp_path):
    _, out, err = segment(pictures / "a.png", "dog")
    assert re.search(r": 'dog', [\d.]+% of the image(; note: .*)?\n", out)
    assert "score" not in out + err
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    (mask,) = json.loads(line)["segments"]
    assert "score" not in mask
    (entry,) = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert entry["score"] == mask["estimated_iou"]  # COCO's name, by which masks are ranked


def test_images_of_the_command_line_are_done_again(segment, pictures):
    segment(pictures / "a.png", "dog")
    _, _, err = segment(pictures / "a.png", "dog")
    assert "1 done in" in err
    assert "already" not in err


def test_several_images_go_on_past_a_bad_one(segment, pictures, tmp_path):
    code, out, err = segment(pictures / "none.png", pictures / "a.png", "dog")
    assert code == 1
    assert "a-dog" in out
    assert "failed:" in err
    assert re.search(r"^1 done in .*; 1 failed, see their lines in", err, re.M)
    errors = [json.loads(line)["error"] for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [error is None for error in errors] == [False, True]


def test_a_manifest_goes_on_without_loading_the_model_where_all_is_done(segment, pictures, tmp_path, monkeypatch):
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"image": str(pictures / "a.png"), "expression": "dog"}))
    assert segment("--manifest", manifest)[0] == 0

    def fail(self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pipelines.options.ModelOptions.load", fail)
    code, out, err = segment("--manifest", manifest)
    assert code == 0
    assert re.search(r"0 done in [\d.]+ s;", err)
    assert "1 were there already" in err
    assert "a-dog" in out


def test_a_models_notice_is_told_on_every_run(segment, pictures, tiny_model, monkeypatch):
    from grounding.models.base import VLM

    plain = VLM.__init__

    def with_notice(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self.notice = "knows nothing at all"

    monkeypatch.setattr(VLM, "__init__", with_notice)
    _, out, err = segment(pictures / "a.png", "dog")
    assert "note: knows nothing at all" in err
    assert "knows nothing" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.png",), "1 arguments were given, expected images and then one expression"),
        (("a.png", "dog", "--manifest", "list.jsonl"), "a.png' were given: give a manifest, or images"),
        (("a.png", "dog", "--batch-size", "0"), "a batch size of 0 was asked for"),
        (("a.png", "dog", "--nouns", "spacy:"), "--nouns 'spacy:' was given"),
        (("a.png", "dog", "--formats", "gif"), "format 'gif' is not known"),
    ],
)
def test_options_out_of_range_are_usage_errors(words, said, pictures, tmp_path, tiny_model):
    """Each is refused before a model is loaded and before anything is written."""
    import tyro

    words = [str(pictures / word) if word == "a.png" else word for word in words]
    command = tyro.cli(SegmentCommand, args=[*words, "--model", str(tiny_model), "--out", str(tmp_path / "out")])
    with pytest.raises(UsageError) as refusal:
        command.run()
    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_spacy_finds_the_nouns_where_asked(segment, pictures, tmp_path):
    pytest.importorskip("spacy", reason="the extra 'nlp' is not installed")
    import spacy.util

    if not spacy.util.is_package("en_core_web_sm"):
        pytest.skip("the spaCy pipeline en_core_web_sm is not installed")
    assert segment(pictures / "a.png", "the red dog", "--nouns", "spacy")[0] == 0
    (run,) = json.loads((tmp_path / "out" / "run.json").read_text())["runs"].values()
    assert run["config"]["nouns"].startswith("spacy ")  # and the pipeline's version


def test_folders_and_patterns_stand_for_their_pictures(segment, pictures, tmp_path):
    code, out, _ = segment(pictures, "dog")
    assert code == 0
    assert [line.split(":")[0].rsplit("/")[-1][:6] for line in out.splitlines()] == ["a-dog-", "b-dog-", "c-dog-"]
    assert len(segment(pictures / "[ab].png", "red")[1].splitlines()) == 2
    code, _, err = segment(pictures / "*.gif", "dog")
    assert (code, "no file matches" in err) == (2, True)


def test_an_enumeration_is_several_expressions_and_said_so(segment, pictures):
    code, out, err = segment(pictures / "a.png", "the dog, the image")
    assert code == 0
    assert "note: 'the dog, the image' is taken as 2 expressions: the dog | the image" in err
    assert ["'the dog'" in line for line in out.splitlines()] == [True, False]
    assert "is taken as" not in segment(pictures / "a.png", "dog, red image")[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("a.png", "the", "bowl"),
            """'the' is no picture; if 'the bowl' is the expression, put it in quotes: grounding""",
        ),
        (("a.png", "\u201cthe", "bowl\u201d"), "typed quotes are letters to a shell; if 'the bowl' is the expression"),
        (("the bowl", "a.png"), "'the bowl' stands before the picture"),
        (("a.png", "b.png"), "is a picture: put the expression behind the pictures"),
    ],
)
def test_words_that_a_shell_took_apart_are_one_sentence(words, said, segment, pictures, tmp_path):
    words = [str(pictures / word) if word.endswith(".png") else word for word in words]
    code, out, err = segment(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "out").exists()


def test_typed_quotes_do_not_change_the_mask(segment, pictures, tmp_path):
    found = []
    for words in ("the dog's image", "\u201cthe dog\u2019s image\u201d", "'the dog's image'"):
        code, out, err = segment(pictures / "a.png", words, "--json")
        assert code == 0, err
        found.append(json.loads(out)["segments"])
    assert found[0] == found[1] == found[2]


def test_what_a_centre_crop_hides_is_a_note_in_line_record_and_picture(segment, tmp_path):
    from PIL import Image

    Image.new("RGB", (400, 100), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (100, 100), "red").save(tmp_path / "square.png")
    said = "75% of the picture lies outside what the model sees"
    code, out, _ = segment(tmp_path / "wide.png", tmp_path / "square.png", "dog")
    assert code == 0
    assert [f"; note: {said}" in line for line in out.splitlines()] == [True, False]
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [one.get("notes", [""])[0].startswith(said) for one in records] == [True, False]
    (file,) = (name for name in records[0]["files"] if name.endswith(".png"))
    foot = np.asarray(Image.open(tmp_path / "out" / file))[-30:]
    assert (np.abs(foot.astype(int) - np.array(NEGATIVE)).sum(-1) < 60).any()  # the note's red letters


@pytest.mark.parametrize(
    ("seen", "said"), [(50, "50%"), (0.6, "99%"), (0.4, "more than 99%"), (0.001, "more than 99%")]
)
def test_nearly_all_of_a_picture_is_not_called_all(seen, said):
    image = Image.new("RGB", (100, 50))
    (note,) = picture_notes(image, [ImageGrid(np.arange(4), (2, 2), (0, 0, seen, 50))])
    assert note.startswith(f"{said} of the picture lies outside what the model sees")


def test_a_moving_picture_is_noted(segment, tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (60, 60), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (
        "; note: the picture has 2 frames or pages, of which the first is read" in segment(tmp_path / "a.gif", "dog")[1]
    )


def test_the_limit_of_pixels_is_an_option_of_every_command(segment, tmp_path, capsys):
    from PIL import Image

    Image.new("1", (17_000, 200)).save(tmp_path / "long.png")
    code, _, err = segment(tmp_path / "long.png", "dog")
    assert (code, "raise the limit with --max-pixels N" in err) == (2, True)
    assert segment(tmp_path / "long.png", "dog", "--max-pixels", "4000000")[0] == 0
    assert "over the limit of 1,000" in segment(tmp_path / "long.png", "dog", "--max-pixels=1000")[2]
    for wrong in (["--max-pixels"], ["--max-pixels", "many"], ["--max-pixels=0"]):
        assert main(["doctor", *wrong]) == 2
        assert "expected a whole number of pixels" in capsys.readouterr().err
