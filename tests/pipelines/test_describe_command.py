from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from grounding.cli import main
from grounding.scenes.drawing import draw_scene
from grounding.scenes.language import DESCRIBE


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for number, seed in enumerate((7_300_000, 7_300_001)):
        draw_scene(seed).image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def describe(capsys):
    """`grounding describe` with the packaged model: (exit code, stdout, stderr)."""

    def run(*words):
        code = main(["describe", *map(str, words), "--model", "starter", "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def test_plain_lines_where_there_is_no_terminal(describe, scenes) -> None:
    code, out, err = describe(scenes / "0.png")
    assert code == 0
    image, label, text, heading, *nouns, total = out.splitlines()
    assert (image, label, heading) == (str(scenes / "0.png"), "unsteered:", "nouns of unsteered:")
    assert text.startswith("a ")
    assert "\x1b" not in out
    assert all(" (support 0." in line for line in nouns)
    assert total.strip().startswith(f"{len(nouns)} nouns in ")
    assert " unsupported" in total
    assert " per s" in total
    assert "note: starter" in err


def test_tokens_come_out_before_the_text_is_finished(describe, scenes, monkeypatch) -> None:
    import sys

    writes = []
    write = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda text: writes.append(text) or write(text))
    _, out, _ = describe(scenes / "0.png")
    text = out.splitlines()[2]
    assert sum(bool(part) and part.strip("\n") in text for part in writes) > len(text.split()) / 2


def test_a_steering_that_searches_prints_whole_texts(describe, scenes) -> None:
    code, out, err = describe(scenes / "0.png", "--steer", "opera", "--max-new-tokens", "6")
    assert code == 0, err
    texts = [line for line in out.splitlines() if not line.startswith(" ")][1:]
    assert [line.partition(": ")[0] for line in texts] == ["unsteered", "steered"]
    assert all(line.partition(": ")[2].startswith("a ") for line in texts)


def write_steering(file, *steps):
    lines = ["description: made for a test", "source: none", "steps:", *(f"  - {step}" for step in steps)]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize(
    ("step", "options", "sentence"),
    [
        ("{step: head-gains, image: [[2, 2], [2, 2]]}", (), "the head gains are for 2 layers of 2 heads"),
        ("{step: renormalise, gain: 2, layers: {indices: [40]}}", (), "layers [40] are named, but the model has"),
        ("{step: renormalise, gain: 2, heads: {listed: [[0, 99]]}}", (), "head [0, 99] does not exist"),
        ("{step: over-trust}", ("--sample",), "draws no tokens"),
    ],
)
def test_steering_of_another_model_is_refused_before_any_text(
    describe, scenes, tmp_path, step, options, sentence
) -> None:
    file = write_steering(tmp_path / "mine.yaml", "{step: truncation, tokens: 4}", step)
    code, out, err = describe(scenes / "0.png", scenes / "1.png", "--steer", file, *options, "--out", tmp_path / "out")
    assert code == 2
    assert sentence in err
    assert out == "", "nothing was generated"
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_searching_step_of_any_kind_is_not_streamed() -> None:
    from grounding.steering.generate import searches
    from grounding.steering.method import Steering, load_steering

    class Hunt:
        name = "hunt"
        searches = True

    assert searches(Steering("mine", "", "", (Hunt(),)))
    assert searches(load_steering("opera"))
    assert not searches(load_steering("pai"))
    assert not searches(None)


def test_json_is_one_object_an_image_and_a_bad_one_does_not_stop_the_rest(describe, scenes, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    folder = tmp_path / "out"
    images = (scenes / "0.png", broken, scenes / "1.png")
    code, out, err = describe(*images, "--json", "--out", folder, "--steer", "pai", "--threshold", "0.6")
    assert code == 1
    assert "1 of 3 images failed, see their lines in" in err
    first, bad, second = (json.loads(line) for line in out.splitlines())
    assert [one["image"] for one in (first, bad, second)] == [str(image) for image in images]
    assert bad["error"]["kind"] == "ImageError"
    assert str(broken) in bad["error"]["sentence"]
    for record in (first, second):
        assert record["error"] is None
        assert record["question"] == DESCRIBE
        assert (record["steering"], record["seed"]) == ("pai", 0)
        for label in ("unsteered", "steered"):
            assert record["speed"][label]["tokens_per_second"] > 0
            for noun in record[label]["nouns"]:
                assert record[label]["text"][slice(*noun["span"])] == noun["text"]
                assert noun["supported"] == (noun["support"] >= 0.6)
                assert (noun["text"] in record[label]["unsupported"]) or noun["supported"]
        assert all(Image.open(folder / name).width > 500 for name in record["files"])
        assert len(record["files"]) == 2
    kept = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert kept == [{k: v for k, v in one.items() if k != "speed"} for one in (first, bad, second)]
    (run,) = json.loads((folder / "run.json").read_text())["runs"].values()
    assert run["config"]["steering"] == "pai"
    assert run["config"]["decoding"]["max_new_tokens"] == 512


def test_a_terminal_gets_both_texts_side_by_side(describe, scenes, monkeypatch) -> None:
    from rich.console import Console

    wide = Console(highlight=False, markup=False, soft_wrap=True, force_terminal=True, width=140)
    monkeypatch.setattr("pipelines.commands.describe.stdout", lambda: wide)
    code, out, _ = describe(scenes / "0.png", "--steer", "truncation", "--threshold", "1")
    assert code == 0
    assert "steered by truncation" in out
    assert "\x1b[1;31m" in out
    assert any(line.count("support 0.") == 2 for line in out.splitlines())


def test_masks_are_in_the_line(describe, scenes, tiny_segmenter) -> None:
    code, out, _ = describe(scenes / "0.png", "--masks", "--segmenter", tiny_segmenter, "--json")
    assert code == 0
    noun = json.loads(out)["unsteered"]["nouns"][0]
    assert noun["mask"]["segmentation"]["size"] == [384, 384]
    assert 0 <= noun["parts"]["agreement"] <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no image was given"),
        (("none.png",), "none.png"),
        (("--steer", "nonsense"), "steering method 'nonsense' is unknown"),
        (("--threshold", "2"), "a threshold of 2.0 was given"),
        (("--nouns", "nltk"), "--nouns 'nltk' was given, expected rules, spacy or spacy:MODEL"),
        (("--nouns", "spacy:no_such_pipeline"), "spacy"),
        (("--question", "what is a giraffe ?"), "'giraffe' is outside the vocabulary"),
        (("--top-p", "0", "--sample"), "top_p"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(describe, scenes, tmp_path, words, sentence) -> None:
    images = () if not words or words[0].endswith(".png") else (scenes / "0.png",)
    code, out, err = describe(*images, *words, "--out", tmp_path / "out", "--json")
    assert code == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph that the photo starter describes in one sentence."""
    import skimage.data

    file = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(skimage.data.astronaut()).save(file)
    return file


def test_a_caption_of_a_photo_is_one_sentence_that_ends(photo, capsys) -> None:
    assert main(["describe", str(photo), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["unsteered"]
    assert told["finished"]
    assert told["text"].count(" .") == 1


def test_no_verdict_where_no_threshold_was_measured(photo, capsys) -> None:
    assert main(["describe", str(photo)]) == 0
    out, err = capsys.readouterr()
    assert "no verdict (no threshold of support was measured for this model: give one)" in out.splitlines()[-1]
    assert "unsupported" not in out + err
    assert main(["describe", str(photo), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["unsteered"]
    assert (told["threshold"], told["unsupported"]) == (None, [])
    assert {noun["supported"] for noun in told["nouns"]} == {None}
    assert main(["describe", str(photo), "--threshold", "1"]) == 0
    out = capsys.readouterr().out
    assert f", {len(told['nouns'])} unsupported" in out
    assert "no verdict" not in out


DETAIL = ("--question", "describe the image in detail .")  # the training answers it with three captions in a row


def test_a_text_ends_where_it_repeats_itself_unless_asked_to_go_on(photo, capsys) -> None:
    told = {}
    for option in ("--json", "--keep-repeats"):
        assert main(["describe", str(photo), *DETAIL, "--json", *([option] if option != "--json" else [])]) == 0
        told[option] = json.loads(capsys.readouterr().out)["unsteered"]
    cut, whole = told["--json"], told["--keep-repeats"]
    sentences = whole["text"].split(" .")
    assert len(sentences) > len({*sentences})
    assert (cut["repeated"], cut["finished"], whole["repeated"]) == (True, False, False)
    assert whole["text"].startswith(cut["text"])
    assert cut["text"].count(" .") == 1
    assert main(["describe", str(photo), *DETAIL]) == 0
    out = capsys.readouterr().out
    assert f"unsteered, without the repeat: {cut['text']}" in out
    assert "ended where it repeats itself" in out.splitlines()[-1]


def test_a_picture_replaced_in_place_has_another_line_and_the_old_one_is_gone(describe, scenes, tmp_path) -> None:
    picture, out = tmp_path / "1.png", tmp_path / "out"
    keys = set()
    for name in ("0", "0", "1"):
        picture.write_bytes((scenes / f"{name}.png").read_bytes())
        assert describe(picture, "--out", out, "--max-new-tokens", "4")[0] == 0
        (line,) = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        keys.add(line["key"])
        assert all((out / file).is_file() for file in line["files"])
    assert len(keys) == 2


def test_an_out_that_cannot_be_written_is_refused_before_the_model_is_loaded(describe, scenes, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.options.LoadOptions.load_vlm", lambda self: pytest.fail("the model was loaded"))
    code, out, err = describe(scenes / "0.png", "--out", "/proc/out")
    assert code == 2
    assert out == ""
    assert "cannot be written" in err


def test_progress_of_several_images_is_on_stderr(describe, scenes, monkeypatch) -> None:
    import io

    from rich.console import Console

    images = (scenes / "0.png", scenes / "1.png")
    for form in ((), ("--json",)):
        _, out, err = describe(*images, *form, "--max-new-tokens", "4")
        assert re.findall(r"describe .* (\d/\d) [\d.]+ per s, 0:00:\d\d left", err) == ["1/2", "2/2"]
        assert "left" not in out
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr("pipelines.commands.describe.stderr", lambda: terminal)
    _, out, _ = describe(*images, "--json", "--max-new-tokens", "4")
    assert [json.loads(line)["image"] for line in out.splitlines()] == [str(image) for image in images]
    assert "2/2" in terminal.file.getvalue()


def test_a_folder_is_described_and_what_the_model_does_not_see_is_noted(tiny_model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, size in {"a": (64, 64), "b": (256, 64)}.items():
        Image.new("RGB", size, "red").save(tmp_path / "in" / f"{name}.png")
    options = ["--model", str(tiny_model), "--max-new-tokens", "3", "--out", str(tmp_path / "out")]
    assert main(["describe", str(tmp_path / "in"), *options]) == 0
    out = capsys.readouterr().out
    said = "75% of the picture lies outside what the model sees, so nothing there can be found"
    assert out.count(f"note: {said}") == 1
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [record.get("notes") for record in records] == [None, [said]]


def test_an_answer_with_the_image_token_is_described_like_any_other(tiny_model, scenes, capsys):
    """A tiny random model draws its own control tokens now and then."""
    code = main(
        ["describe", *(str(scenes / name) for name in ("0.png", "1.png")), "--model", str(tiny_model), "--sample",
         "--max-new-tokens", "400", "--seed", "11", "--json"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert [json.loads(line)["error"] for line in said.out.splitlines()] == [None, None]
