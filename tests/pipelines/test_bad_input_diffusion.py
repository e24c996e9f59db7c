"""What people get wrong with a diffusion pipeline on the command line: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from safetensors.torch import load_file, save_file

from grounding.cli import main
from grounding.diffusion.tiny import tiny_pipeline

WORDS = "the red dog"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "flux"
    tiny_pipeline("FluxPipeline").save_pretrained(folder)
    return folder


@pytest.fixture
def segment(flux, tiny_segmenter, tmp_path, capsys):
    """`grounding segment` with the tiny pipeline unless told otherwise: (exit code, stdout, stderr)."""

    def run(*words, model=flux, **options):
        chosen = {"segmenter": tiny_segmenter, "device": "cpu", "out": tmp_path / "out"} | options
        flags = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        code = main(["segment", *map(str, words), "--model", str(model), *flags, "--formats", "npz", "--json"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(segment, tmp_path):
    """The sentence of a run that must be refused and leave nothing behind."""

    def run(*words, **options):
        code, stdout, stderr = segment(*words, **options)
        assert (code, stdout) == (2, ""), stderr
        assert "Traceback" not in stderr
        assert not (tmp_path / "out").exists()
        [told] = [line for line in stderr.splitlines() if line.startswith("error: ")]
        return told

    return run


@pytest.fixture
def picture(pictures):
    return pictures / "a.png"


def broken_pictures(folder: Path, whole: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.png" for name in ("none", "words", "empty", "half", "dot", "huge")}
    files["words"].write_text("these are words")
    files["empty"].touch()
    files["half"].write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    Image.new("RGB", (1, 1)).save(files["dot"])
    Image.new("1", (20_000, 40)).save(files["huge"])
    return files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "there is no image at"),
        ("words", "is not an image in a format that Pillow reads"),
        ("empty", "is an empty file"),
        ("half", "is broken or cut short"),
        ("dot", "is 1x1 pixels"),
        ("huge", "20,000"),
    ],
)
def test_a_bad_picture(name, said, refused, picture, tmp_path):
    assert said in refused(broken_pictures(tmp_path, picture)[name], WORDS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_pictures_of_every_mode_work(mode, segment, picture, tmp_path):
    file = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(Image.open(picture).convert("L"), np.uint16) * 257).save(file)
    else:
        Image.open(picture).convert(mode).save(file)
    code, stdout, _ = segment(file, WORDS)
    assert code == 0
    assert json.loads(stdout)["image_size"] == [130, 90]


def test_a_rotated_picture_is_seen_upright(segment, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.open(picture).save(tmp_path / "turned.jpg", exif=exif)
    code, stdout, _ = segment(tmp_path / "turned.jpg", WORDS)
    assert code == 0
    assert json.loads(stdout)["segments"][0]["segmentation"]["size"] == [130, 90]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "has no words: say what to look for"),
        ("  \n", "has no words: say what to look for"),
        ("the of and", "stop words"),
        ("the red </s> dog", "'</s>', a control token"),
        ("a very " * 40 + "red dog", "the expression takes 243 tokens, but the text encoder T5"),
        ("a ☃ dog", "outside the vocabulary"),
    ],
)
def test_a_bad_expression(words, said, refused, picture):
    assert said in refused(picture, words)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("device", "gpu", "device 'gpu' is not known"),
        ("dtype", "int8", "dtype 'int8' is not known"),
        ("batch_size", 0, "batch size"),
        ("method", "nonsense", "method 'nonsense' is unknown"),
        ("method", "ensemble", "joins the maps of several models"),
        ("segmenter", "nonsense", "segmenter 'nonsense' is not known"),
        ("device_map", "auto", "must stand on one device"),
    ],
)
def test_a_bad_option(option, value, said, refused, picture):
    assert said in refused(picture, WORDS, **{option: value})


def test_a_place_that_takes_no_files(segment, picture, tmp_path):
    (tmp_path / "taken").touch()
    code, _, err = segment(picture, WORDS, out=tmp_path / "taken")
    assert (code, "is a file where a folder is needed" in err) == (2, True)


@pytest.mark.parametrize("name", ["WanPipeline", "CogVideoXPipeline"])
def test_a_video_model_given_a_picture(name, refused, picture, tmp_path):
    tiny_pipeline(name).save_pretrained(tmp_path / "video")
    said = refused(picture, WORDS, model=tmp_path / "video")
    assert "is a video model" in said
    assert "choose an image model such as FLUX.1" in said


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def without_a_tensor(folder: Path, part: str, name: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    del tensors[next(key for key in tensors if name in key)]
    save_file(tensors, file, metadata={"format": "pt"})


def with_nan(folder: Path) -> None:
    file = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    tensors[next(key for key in tensors if "to_q.weight" in key)].fill_(torch.nan)
    save_file(tensors, file, metadata={"format": "pt"})


BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no text encoder": (lambda d: shutil.rmtree(d / "text_encoder_2"), "has no text encoder 'text_encoder_2'"),
    "no tokenizer": (lambda d: shutil.rmtree(d / "tokenizer_2"), "has no tokenizer 'tokenizer_2'"),
    "no vae": (lambda d: shutil.rmtree(d / "vae"), "has no part 'vae'"),
    "no weights": (
        lambda d: next((d / "text_encoder_2").glob("*.safetensors")).unlink(),
        "its weights cannot be read",
    ),
    # Each of these libraries warns of a missing tensor and goes on, with random numbers or without any.
    "a tensor of T5": (lambda d: without_a_tensor(d, "text_encoder_2", "Attention.q"), "of T5EncoderModel; get the"),
    "a tensor of CLIP": (lambda d: without_a_tensor(d, "text_encoder", "q_proj.weight"), "of CLIPTextModel; get the"),
    "a tensor of the VAE": (lambda d: without_a_tensor(d, "vae", "encoder.conv_in"), "of AutoencoderKL; get the"),
    "a tensor of the transformer": (
        lambda d: without_a_tensor(d, "transformer", "to_q.weight"),
        "of FluxTransformer2DModel; get the",
    ),
    "weights of NaN": (with_nan, "is not finite (NaN or infinity)"),
    "quantised": (lambda d: edit(d / "transformer" / "config.json", quantization_config=BITS), "quantised (bitsandb"),
    "quantised otherwise": (
        lambda d: edit(d / "transformer" / "config.json", quantization_config={"quant_method": "torchao"}),
        "is quantised (torchao), which maps have not been checked against: load it in float32",
    ),
    "broken index": (lambda d: (d / "model_index.json").write_text("{"), "its model_index.json cannot be read"),
    "index of a list": (lambda d: (d / "model_index.json").write_text("[]"), "it holds no keys and values"),
    "broken config": (lambda d: (d / "transformer" / "config.json").write_text("{"), "its transformer's config"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_bad_checkpoint(what, refused, picture, flux, tmp_path):
    spoil, said = CHECKPOINTS[what]
    folder = Path(shutil.copytree(flux, tmp_path / "spoilt"))
    spoil(folder)
    assert said in refused(picture, WORDS, model=folder)


def test_a_part_that_needs_a_missing_package(refused, picture, flux, tmp_path, monkeypatch):
    from transformers import T5EncoderModel

    def needs(*args: Any, **options: Any) -> None:
        raise ImportError("Using `somebits` needs somebits")

    monkeypatch.setattr(T5EncoderModel, "from_pretrained", needs)
    assert "needs a package that is not installed (Using `somebits` needs somebits)" in refused(picture, WORDS)


def test_out_of_memory(refused, picture, monkeypatch):
    from diffusers import FluxTransformer2DModel

    def full(self: Any, *args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(FluxTransformer2DModel, "forward", full)
    said = refused(picture, WORDS)
    assert "out of memory while running" in said
    assert "at a smaller size" in said
