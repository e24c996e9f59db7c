from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ImageError, UsageError
from grounding.pictures import is_picture, looks_like_a_picture, picture_files, to_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def _bytes(form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, form)
    return stream.getvalue()


CHANNELS_FIRST = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    "given",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[:, ::-1][:, ::-1],  # not contiguous
        PIXELS.astype(np.int64),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        CHANNELS_FIRST,
        CHANNELS_FIRST.float() / 255,
        (CHANNELS_FIRST.double() / 255).requires_grad_(),
        _bytes(),
        bytearray(_bytes("BMP")),
        np.concatenate([PIXELS, np.full((6, 8, 1), 255, np.uint8)], -1),
    ],
)
def test_every_form_of_a_picture_gives_its_pixels(given) -> None:
    assert is_picture(given)
    np.testing.assert_array_equal(np.asarray(to_image(given)), PIXELS)


@pytest.mark.parametrize("given", [PIXELS[..., 0], PIXELS[..., :1], CHANNELS_FIRST[:1], CHANNELS_FIRST[0]])
def test_one_channel_is_grey(given) -> None:
    np.testing.assert_array_equal(np.asarray(to_image(given)), np.repeat(PIXELS[..., :1], 3, -1))


def test_bools_and_half_precision() -> None:
    assert np.asarray(to_image(np.eye(4, dtype=bool)))[0, 0].tolist() == [255] * 3
    assert np.asarray(to_image(torch.ones(3, 4, 4, dtype=torch.bfloat16)))[0, 0].tolist() == [255] * 3


def test_a_path_as_text_or_path(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(_bytes())
    for given in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(np.asarray(to_image(given)), PIXELS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://example.org/cat.jpg", "is a URL: download the picture"),
        ("data:image/png;base64,AAAA", "is a URL: download the picture"),
        (b"no picture", "10 bytes is no image file"),
        (PIXELS.transpose(2, 0, 1), r"an array of 3x6x8 was given as a picture, expected \[H, W, 3\]"),
        (PIXELS[None], r"an array of 1x6x8x3 was given as a picture, expected one of a batch, \[H, W, 3\]"),
        (CHANNELS_FIRST[None], r"a tensor of 1x3x6x8 was given as a picture, expected one of a batch, \[3, H, W\]"),
        (torch.from_numpy(PIXELS), r"a tensor of 6x8x3 was given as a picture, expected \[3, H, W\]"),
        ((CHANNELS_FIRST.float() / 255 - 0.5) / 0.2, "floats from -2.5 to 2.* before it is normalised"),
        (PIXELS.astype(np.float32), "floats from 0 to .* expected 0 to 1"),
        (PIXELS.astype(np.uint16) * 257, "an array of uint16 with values from 0 to"),
        (PIXELS * np.nan, "floats from nan to nan"),
        (np.zeros((0, 4, 3), np.uint8), "an array of 0x4x3"),
        (np.zeros((1, 4, 3), np.uint8), "is 4x1 pixels, but at least 2x2"),
        (3, "a picture was given as int, expected a path, bytes"),
        (None, "a picture was given as NoneType"),
    ],
)
def test_what_is_no_picture_is_one_sentence(given, said) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        to_image(given)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c[1].png"):
        (tmp_path / name).write_bytes(_bytes())
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.png").write_bytes(_bytes())
    return tmp_path


def test_words_of_a_shell_are_files_folders_and_patterns(folder) -> None:
    def names(*words):
        return [file.removeprefix(f"{folder}/") for file in picture_files([str(folder / word) for word in words])]

    assert names("b.png") == ["b.png"]
    assert names("none.png", "b.png", "none.png") == ["none.png", "b.png"]
    assert names("") == ["a.JPG", "b.png", "c[1].png"]
    assert names("*.png") == ["b.png", "c[1].png"]
    assert names("**/*.png") == ["b.png", "below/d.png", "c[1].png"]
    assert names("c[1].png") == ["c[1].png"]
    assert names("", "b.png", "below") == ["a.JPG", "b.png", "c[1].png", "below/d.png"]
    with pytest.raises(UsageError, match="no file matches"):
        names("*.gif")
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        names("empty")


def test_what_looks_like_a_picture(folder) -> None:
    for word in ("x.png", "x.JPEG", "a/b", "*.x", str(folder), str(folder / "notes.txt"), "./x"):
        assert looks_like_a_picture(word)
    for word in ("the", "bowl", "the red bowl", "x" * 5000, "a\0b", ""):
        assert not looks_like_a_picture(word)
