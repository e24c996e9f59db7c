from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from grounding.cli import main
from grounding.errors import UsageError
from grounding.models.tiny import TINY
from grounding.scenes.drawing import draw_scene
from pipelines.commands.look import images_and_question


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / f"{name}.png" for name in ("one", "two")]
    for seed, file in enumerate(files):
        draw_scene(7_500_000 + seed).image.save(file)
    return files


def look(*words: object) -> int:
    return main(["look", "--model", "starter", *map(str, words)])


def test_an_image_is_answered_with_a_page_and_a_picture(pictures, tmp_path, capsys) -> None:
    assert look(pictures[0], "describe the image .", "--out", tmp_path, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["question"] == "describe the image ."
    assert {word["text"] for word in record["words"]} <= set(record["answer"].split())
    assert record["error"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(record["files"])
    assert Image.open(tmp_path / record["files"][1]).width > 500


def test_a_saved_qwen3_vl_answers_with_a_page_and_a_picture(pictures, tmp_path, capsys) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    for part in TINY["qwen3_vl"]():
        part.save_pretrained(model)
    asked = "Which animals are in this picture?"
    for options, words in ((("--answer", "A dog lies beside two horses."), 5), (("--max-new-tokens", "6"), 1)):
        capsys.readouterr()
        arguments = ["look", str(pictures[0]), asked, "--model", str(model), "--out", str(out), "--json", *options]
        assert main(arguments) == 0
        record = json.loads(capsys.readouterr().out)
        page, sheet = (out / file for file in record["files"])
        assert page.read_text().count("data:image/png") >= words
        assert asked in page.read_text()
        assert len(record["words"]) >= words
        assert all(0 < word["share"] < 1 for word in record["words"])
        assert Image.open(sheet).width > 500


def test_one_bad_image_of_several_does_not_end_the_others(pictures, tmp_path, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    assert look(pictures[0], broken, pictures[1], "--out", out, "--max-new-tokens", "4") == 1
    printed = capsys.readouterr()
    assert "1 of 3 images failed" in printed.err
    assert printed.out.count("on the picture:") == 2
    assert len(list(out.iterdir())) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no image was given"),
        (("missing.png", "describe the image ."), "missing.png"),
        (("one.png", "--answer", "a purple elephant ."), "outside the vocabulary"),
        (("one.png", "where is the elephant?"), "outside the vocabulary"),
        (("one.png", "--max-new-tokens", "0"), "max_new_tokens"),
    ],
)
def test_bad_input_is_one_sentence(words, said, pictures, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(pictures[0].parent)
    assert look(*words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out/*"))


def test_the_last_word_is_the_question_unless_it_names_a_picture(pictures) -> None:
    one, two = map(str, pictures)
    assert images_and_question((one, two, "what is it?")) == ([one, two], "what is it?")
    assert images_and_question((one, two)) == ([one, two], None)
    assert images_and_question((one, "what?")) == ([one], "what?")
    assert images_and_question((one,)) == ([one], None)
    with pytest.raises(UsageError, match=r"'what' is no picture"):
        images_and_question((one, "what", "is"))
