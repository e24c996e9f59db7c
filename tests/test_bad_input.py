"""What people get wrong, on the command line: one sentence, exit code 2, nothing written; or it simply works."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.cli import main

WORDS = "the red dog"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def segment(tiny_model, tiny_segmenter, out, capsys):
    """`grounding segment` with the tiny models unless told otherwise: (exit code, stdout, stderr)."""

    def run(*words, **options):
        chosen = {"model": tiny_model, "segmenter": tiny_segmenter, "method": "plain-mean", "out": out} | options
        flags = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        code = main(["segment", *map(str, words), *flags, "--formats", "npz", "--json"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(segment, out):
    """The sentence of a run that must be refused and leave nothing behind."""

    def run(*words, **options):
        before = out.exists()
        code, stdout, stderr = segment(*words, **options)
        assert code == 2
        assert stdout == ""
        assert "Traceback" not in stderr
        assert out.exists() == before
        told = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(told) == 1
        return told[0]

    return run


@pytest.fixture
def picture(pictures):
    return pictures / "a.png"


def test_missing_file(refused, tmp_path):
    assert "there is no image at" in refused(tmp_path / "none.png", WORDS)


def test_a_folder_for_an_image(refused, tmp_path):
    assert "holds no picture" in refused(tmp_path, WORDS)


def test_not_an_image(refused, tmp_path):
    (tmp_path / "words.png").write_text("these are words")
    assert "is not an image in a format that Pillow reads" in refused(tmp_path / "words.png", WORDS)


def test_empty_file(refused, tmp_path):
    (tmp_path / "empty.png").touch()
    assert "is an empty file" in refused(tmp_path / "empty.png", WORDS)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_image(ending, refused, picture, tmp_path):
    whole = tmp_path / f"whole.{ending}"
    Image.open(picture).save(whole)
    (tmp_path / f"half.{ending}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "is broken or cut short" in refused(tmp_path / f"half.{ending}", WORDS)


def test_an_image_of_one_pixel(refused, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert "is 1x1 pixels, but at least 2x2 are needed" in refused(tmp_path / "dot.png", WORDS)


@pytest.mark.parametrize("size", [(20_000, 40), (20_000, 20_000)])
def test_an_image_of_20000_pixels(size, refused, tmp_path):
    Image.new("1", size).save(tmp_path / "huge.png")
    assert "20,000" in refused(tmp_path / "huge.png", WORDS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_every_mode_work(mode, segment, picture, tmp_path):
    file = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(Image.open(picture).convert("L"), np.uint16) * 257).save(file)
    else:
        Image.open(picture).convert(mode).save(file)
    code, stdout, _ = segment(file, WORDS)
    assert code == 0
    assert json.loads(stdout)["image_size"] == [130, 90]


def test_a_rotated_image_is_seen_upright(segment, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.open(picture).save(tmp_path / "turned.jpg", exif=exif)
    code, stdout, _ = segment(tmp_path / "turned.jpg", WORDS)
    assert code == 0
    record = json.loads(stdout)
    assert record["image_size"] == [90, 130]
    assert record["segments"][0]["segmentation"]["size"] == [130, 90]


@pytest.mark.parametrize("words", ["", "   ", "\n"])
def test_empty_expression(words, refused, picture):
    assert "has no words: say what to look for" in refused(picture, words)


@pytest.mark.parametrize("words", ["the of and", "is it the"])
def test_expression_of_stop_words_only(words, refused, picture):
    assert "stop words" in refused(picture, words)


def test_an_expression_alone(refused):
    assert "1 arguments were given, expected images and then one expression" in refused("dog")


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "~/none"])
def test_unknown_model_folder(name, refused, picture):
    assert "there is no model folder" in refused(picture, WORDS, model=name)


def test_a_folder_that_is_no_model(refused, picture, tmp_path):
    assert "has no config.json" in refused(picture, WORDS, model=tmp_path)


def test_a_model_of_an_unknown_type(refused, picture, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    said = refused(picture, WORDS, model=tmp_path)
    assert "'bert'" in said
    assert re.search("the known ones are .*llava, .*qwen2_5_vl", said)


def test_no_hub(refused, picture, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = refused(picture, WORDS, model="nobody/no-such-model", method="default")
    assert "cannot be reached, and the local cache" in said
    assert "use starter-photo (for photographs) or starter" in said


def test_unknown_method(refused, picture):
    said = refused(picture, WORDS, method="nonsense")
    assert "method 'nonsense' is unknown" in said
    assert "plain-mean" in said


def test_a_method_file_with_a_misspelt_stage(refused, picture, tmp_path):
    (tmp_path / "mine.yaml").write_text("description: a\nsource: b\nstages:\n  - stage: heads-meen\n")
    assert "heads-meen" in refused(picture, WORDS, method=tmp_path / "mine.yaml")


def test_unknown_segmenter(refused, picture):
    assert "segmenter 'nonsense' is not known" in refused(picture, WORDS, segmenter="nonsense")


@pytest.mark.parametrize(("option", "value"), [("device", "gpu"), ("dtype", "int8")])
def test_unknown_device_and_dtype(option, value, refused, picture):
    assert f"{option} {value!r} is not known" in refused(picture, WORDS, **{option: value})


def test_a_batch_of_nothing(refused, picture):
    assert "batch size" in refused(picture, WORDS, batch_size=0)


def test_unknown_format(tiny_model, picture, out, capsys):
    assert main(["segment", str(picture), WORDS, "--formats", "gif", "--out", str(out)]) == 2
    assert "format 'gif' is not known" in capsys.readouterr().err
    assert not out.exists()


def test_no_write_permission_because_a_file_is_there(refused, picture, tmp_path):
    (tmp_path / "taken").touch()
    said = refused(picture, WORDS, out=tmp_path / "taken")
    assert "is a file where a folder is needed" in said
    assert "is a file where a folder is needed" in refused(picture, WORDS, out=tmp_path / "taken" / "below")


def test_no_write_permission_in_a_place_that_takes_no_files(refused, picture):
    assert "cannot be written" in refused(picture, WORDS, out="/proc/grounding/out")


def test_out_of_memory(refused, picture, monkeypatch):
    from transformers import LlavaForConditionalGeneration

    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", full)
    said = refused(picture, WORDS)
    assert "out of memory while running" in said
    assert "smaller model" in said


def test_out_of_memory_on_the_cpu(refused, picture, monkeypatch):
    from transformers import LlavaForConditionalGeneration

    def full(self, *args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", full)
    assert "out of memory while running" in refused(picture, WORDS)


def test_out_of_memory_in_the_segmenter(refused, picture, monkeypatch):
    from transformers import SamModel

    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SamModel, "get_image_embeddings", full)
    monkeypatch.setattr(SamModel, "forward", full)
    assert "out of memory while running segmenter" in refused(picture, WORDS)


@pytest.mark.parametrize("line", ["no json", '{"image": "a.png"}', ""])
def test_a_wrong_manifest(line, refused, tmp_path):
    (tmp_path / "list.jsonl").write_text(line)
    assert "the manifest" in refused("--manifest", tmp_path / "list.jsonl")


def test_both_a_manifest_and_images(refused, picture, tmp_path):
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": str(picture), "expression": WORDS}))
    assert "both --manifest and" in refused(picture, WORDS, manifest=tmp_path / "list.jsonl")


@pytest.mark.parametrize(
    "argv",
    [
        ["scenes", "--n", "0"],
        ["scenes", "--seed", "-1"],
        ["eval", "scenes", "--limit", "0"],
        ["eval", "scenes", "--seed", "-2"],
    ],
)
def test_numbers_that_make_no_sense(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected" in err
    assert list(tmp_path.iterdir()) == []


def test_scenes_into_a_place_that_takes_no_files(tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert main(["scenes", "--n", "1", "--out", str(tmp_path / "taken")]) == 2
    assert "a file is where a folder is needed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def untrained_starter(tmp_path_factory):
    """The starter's classes, tokenizer and closed vocabulary, with fresh random weights."""
    from grounding.starter.model import build_model, build_processor

    folder = tmp_path_factory.mktemp("untrained-starter")
    build_model(0).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def test_a_word_outside_the_starters_vocabulary(refused, picture, untrained_starter):
    said = refused(picture, "the striped zebra", model=untrained_starter, method="starter")
    assert "the word 'zebra' is outside the vocabulary" in said
    assert "triangle" in said
    assert "--model llava-hf/" in said


def test_words_of_the_starters_vocabulary_work_in_any_case(segment, picture, untrained_starter):
    code, stdout, _ = segment(
        picture, "The small RED star left of the blue square", model=untrained_starter, method="starter"
    )
    assert code == 0
    assert json.loads(stdout)["error"] is None
