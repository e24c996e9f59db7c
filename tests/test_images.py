from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from grounding.errors import ImageError
from grounding.images import as_rgb, larger_pictures, notes_of, open_image


def _picture(width=40, height=30) -> Image.Image:
    yy, xx = np.indices((height, width))
    return Image.fromarray(np.stack([xx * 6, yy * 8, np.full_like(xx, 90)], -1).astype(np.uint8))


def test_a_colour_picture_comes_as_it_is(tmp_path):
    _picture().save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(_picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_puts_the_picture_upright(tmp_path, orientation):
    upright = _picture()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    opened = open_image(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(upright))


def test_grey_palette_and_bilevel_become_rgb(tmp_path):
    grey = _picture().convert("L")
    for name, image in {"l": grey, "p": _picture().quantize(16), "b": grey.convert("1")}.items():
        image.save(tmp_path / f"{name}.png")
        opened = open_image(tmp_path / f"{name}.png")
        assert (opened.mode, opened.size) == ("RGB", (40, 30))
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_shades(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (10, 1))
    for ending in ("png", "tif"):
        Image.fromarray(ramp).save(tmp_path / f"a.{ending}")
        opened = np.asarray(open_image(tmp_path / f"a.{ending}"))
        np.testing.assert_allclose(opened[0, :, 0], np.linspace(0, 255, 40), atol=1)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_are_scaled_and_nan_is_black(tmp_path, top):
    values = np.full((4, 4), top, np.float32)
    values[0, 0], values[0, 1] = np.nan, top / 2
    Image.fromarray(values).save(tmp_path / "a.tif")
    opened = np.asarray(open_image(tmp_path / "a.tif"))
    assert opened[0, 0, 0] == 0
    assert opened[0, 1, 0] == pytest.approx(128, abs=1)
    assert opened[3, 3, 0] == 255


def test_transparency_lies_on_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 20, 30, 255)
    clear[2] = (0, 0, 0, 128)
    Image.fromarray(clear).save(tmp_path / "a.png")
    opened = np.asarray(open_image(tmp_path / "a.png"))
    assert opened[0, 0].tolist() == [10, 20, 30]
    assert opened[3, 3].tolist() == [255, 255, 255]
    np.testing.assert_allclose(opened[2, 0], 127, atol=1)
    palette = Image.fromarray(clear[..., 0]).convert("P")
    palette.save(tmp_path / "p.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "p.png"))[3, 3].tolist() == [255, 255, 255]
    Image.fromarray(clear).convert("LA").save(tmp_path / "la.png")
    assert np.asarray(open_image(tmp_path / "la.png"))[3, 3].tolist() == [255, 255, 255]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(open_image(tmp_path / "a.jpg"))[4, 4]
    assert red > 200
    assert max(green, blue) < 60


def test_a_moving_picture_gives_its_first_frame(tmp_path):
    Image.new("RGB", (8, 8), "red").save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]
    )
    opened = open_image(tmp_path / "a.gif")
    assert np.asarray(opened)[0, 0].tolist() == [255, 0, 0]
    assert notes_of(opened) == ("the picture has 2 frames or pages, of which the first is read",)
    assert notes_of(as_rgb(opened)) == notes_of(opened.copy()) == notes_of(opened)
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert notes_of(open_image(tmp_path / "a.tif")) == (
        "the picture has 3 frames or pages, of which the first is read",
    )
    pages[0].save(tmp_path / "b.gif")
    assert notes_of(open_image(tmp_path / "b.gif")) == ()


def test_the_frames_of_a_broken_animation_are_a_note_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    frames = [Image.fromarray(np.roll(noise, step)) for step in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) // 2])
    assert "of which the first is read" in notes_of(open_image(tmp_path / "a.gif"))[0]


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("bits", "note"), [(8, True), (10, True), (12, True), (14, True), (16, False)])
def test_a_sensors_bits_in_a_deeper_file_are_scaled_with_a_note(tmp_path, ending, bits, note):
    top = (1 << bits) - 1
    Image.fromarray(np.tile(np.linspace(0, top, 40).astype(np.uint16), (10, 1))).save(tmp_path / f"a.{ending}")
    opened = open_image(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(np.asarray(opened)[0, :, 0], np.linspace(0, 255, 40), atol=1.5)
    assert notes_of(opened) == (
        (f"the picture's values use only the lowest {bits} bits, and are scaled by those",) if note else ()
    )


@pytest.mark.parametrize(
    ("values", "seen", "note"),
    [
        (np.array([[-1024, 0], [1023, 3071]], np.int32), [0, 64, 128, 255], "from -1024 to 3071"),
        (np.array([[0, 1e6], [2e6, 4e6]], np.float32), [0, 64, 128, 255], "from 0 to 4e+06"),
        (np.array([[0, 400], [500, 1000]], np.float32), [0, 102, 128, 255], "from 0 to 1000"),
        (np.array([[0, 0], [70_000, 140_000]], np.int32), [0, 0, 128, 255], "from 0 to 140000"),
        (np.array([[np.nan, 1], [np.inf, 0.5]], np.float32), [0, 255, 0, 128], ""),
        (np.array([[np.nan, np.nan]] * 2, np.float32), [0, 0, 0, 0], ""),
        (np.zeros((2, 2), np.int32), [0, 0, 0, 0], ""),
    ],
)
def test_values_outside_the_usual_ranges_are_scaled_with_a_note(tmp_path, values, seen, note):
    Image.fromarray(values).save(tmp_path / "a.tif")
    opened = open_image(tmp_path / "a.tif")
    np.testing.assert_allclose(np.asarray(opened)[..., 0].ravel(), seen, atol=1)
    assert (note in notes_of(opened)[0]) if note else notes_of(opened) == ()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_colours_that_fill_the_lower_of_sixteen_bits_only_are_scaled(bits, channels, tmp_path):
    """Pillow reads the upper byte of each; a file of 12 bits in 16 is nearly black then."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = np.random.default_rng(0).integers(0, 1 << bits, (8, 8, channels))
    values[0, 0], values[..., 3:] = (1 << bits) - 1, 65535
    rows = values.astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 8, 8, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    opened = open_image(tmp_path / "a.png")
    shares = values[..., :3] / ((1 << bits) - 1) * 255
    assert np.abs(np.asarray(opened) - shares).max() <= (0.5 if bits < 16 else 1)
    assert notes_of(opened) == (
        () if bits == 16 else (f"the picture's values use only the lowest {bits} bits, and are scaled by those",)
    )


def test_a_dark_picture_of_eight_bits_stays_dark(tmp_path):
    Image.new("RGB", (8, 8), (3, 3, 3)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png")).max() == 3
    assert notes_of(open_image(tmp_path / "a.png")) == ()


def test_transparent_palettes_and_cmyk_with_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (10, 6), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    opened = open_image(tmp_path / "a.jpg")
    assert opened.size == (6, 10)
    assert np.asarray(opened)[3, 3, 0] > 200
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = bytes([0, 128])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png")
    seen = np.asarray(open_image(tmp_path / "p.png"))
    assert seen[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(seen[3, 3], [255, 127, 127], atol=1)


def _said(path) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_folder_and_no_image(tmp_path):
    assert "there is no image" in _said(tmp_path / "gone.png")
    assert "is a folder" in _said(tmp_path)
    (tmp_path / "a.jpg").write_text("hello")
    assert "not an image in a format" in _said(tmp_path / "a.jpg")
    (tmp_path / "e.png").write_bytes(b"")
    assert "is an empty file" in _said(tmp_path / "e.png")
    assert "there is no image" in _said(tmp_path / "a.jpg" / "b.png") or "broken" in _said(tmp_path / "a.jpg" / "b.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{ending}")
    content = (tmp_path / f"whole.{ending}").read_bytes()
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(content[: int(len(content) * share)])
    said = _said(path)
    assert "cut short" in said or "not an image" in said


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_too_small(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert f"{size[0]}x{size[1]} pixels, but at least 2x2" in _said(tmp_path / "a.png")


def test_too_large_is_refused_before_decoding_and_names_the_limit(tmp_path):
    Image.new("1", (20_000, 20)).save(tmp_path / "wide.png")
    assert "over the limit of 16,384" in _said(tmp_path / "wide.png")
    with larger_pictures(400_000):
        assert open_image(tmp_path / "wide.png").size == (20_000, 20)
    assert "over the limit of 16,384" in _said(tmp_path / "wide.png")
    _picture().save(tmp_path / "a.png")
    with larger_pictures(1199):
        said = _said(tmp_path / "a.png")
    assert "40x30 = 1,200 pixels, over the limit of 1,199" in said
    assert "--max-pixels N" in said
    with larger_pictures(39):
        assert "over the limit of 39 for the longer side" in _said(tmp_path / "a.png")


def test_pillows_limit_is_lifted_inside_the_block_and_put_back(tmp_path, monkeypatch):
    _picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with larger_pictures(1200):
        assert open_image(tmp_path / "a.png").size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 500


def test_pillows_own_alarm_is_one_sentence(tmp_path, monkeypatch):
    _picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert "1,000 pixels that Pillow agrees to open" in _said(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "a.png").size == (40, 30)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may read everything")
def test_no_permission_to_read(tmp_path):
    _picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert "may not be read" in _said(tmp_path / "a.png")


def test_a_picture_in_memory_is_checked_too():
    with pytest.raises(ImageError, match="the image is 1x1"):
        as_rgb(Image.new("RGB", (1, 1)))
    picture = _picture()
    copy = as_rgb(picture)
    copy.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) != (1, 2, 3)
