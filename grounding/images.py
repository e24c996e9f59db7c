"""Pictures from files: every kind that people have, as the RGB that the eye would see, or one sentence why not."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from grounding.errors import ImageError

MIN_SIDE = 2
"""A side of one pixel has no extent that a point could be inside of."""
MAX_SIDE = 16_384
MAX_PIXELS = 120_000_000

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def open_image(path: str | Path, max_side: int = MAX_SIDE, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as it is meant to be seen.

    EXIF rotation is applied, so pixel coordinates are those of the upright picture. Grey, palette, 16-bit and CMYK
    pictures become RGB, transparent ones lie on white, of a moving one the first frame is taken.

    Args:
        path: the file.
        max_side: longest side in pixels that is accepted; checked before the pixels are decoded.
        max_pixels: most pixels that are accepted.

    Returns:
        An RGB picture, 8 bits a channel, fully loaded.

    Raises:
        ImageError: there is no such file, it may not be read, is no picture, is broken, too small or too large.
    """
    file = Path(path)
    if file.is_dir():
        raise ImageError(f"{file} is a folder, but an image file is needed: name the pictures in it")
    try:
        with warnings.catch_warnings():
            # The limits below are checked on the header, so Pillow's own warning would only say it twice.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return as_rgb(image, f"the image {file}", max_side, max_pixels)
    except FileNotFoundError as wrong:
        raise ImageError(f"there is no image at {file}: check the path") from wrong
    except PermissionError as wrong:
        raise ImageError(f"the image {file} may not be read: change its permissions") from wrong
    except UnidentifiedImageError as wrong:
        empty = file.is_file() and file.stat().st_size == 0
        what = "is an empty file" if empty else "is not an image in a format that Pillow reads"
        raise ImageError(f"{file} {what}: give a PNG, JPEG, WebP, TIFF, BMP or GIF file") from wrong
    except Image.DecompressionBombError as wrong:
        raise ImageError(
            f"the image {file} has more than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that Pillow agrees to "
            f"open; the limits here are max_side={max_side:,} and max_pixels={max_pixels:,}: make it smaller"
        ) from wrong
    except MemoryError as wrong:
        raise ImageError(f"the image {file} does not fit into memory: make it smaller") from wrong
    except _BROKEN as wrong:
        raise _broken(f"the image {file}", wrong) from wrong


def as_rgb(
    image: Image.Image, name: str = "the image", max_side: int = MAX_SIDE, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An opened picture upright and in RGB; see `open_image`.

    Raises:
        ImageError: it is too small, too large, or its pixels cannot be decoded.
    """
    _check_size(image.size, name, max_side, max_pixels)
    try:
        image.load()
    except _BROKEN as wrong:
        raise _broken(name, wrong) from wrong
    try:
        upright = ImageOps.exif_transpose(image)
    except _BROKEN:  # broken EXIF says nothing about which way is up
        upright = image
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_deep_grey(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB") if upright.mode != "RGB" or upright is image else upright


def _broken(name: str, wrong: Exception) -> ImageError:
    reason = " ".join(str(wrong).split()) or type(wrong).__name__
    return ImageError(f"{name} is broken or cut short ({reason}): get or export it again")


def _check_size(size: tuple[int, int], name: str, max_side: int, max_pixels: int) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(f"{name} is {width}x{height} pixels, but at least {MIN_SIDE}x{MIN_SIDE} are needed")
    if max(size) > max_side:
        raise ImageError(
            f"{name} is {width:,}x{height:,} pixels, over the limit of {max_side:,} for the longer side: make it "
            "smaller or raise max_side"
        )
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width:,}x{height:,} = {width * height:,} pixels, over the limit of {max_pixels:,}: make it "
            "smaller or raise max_pixels"
        )


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Integers of more than 8 bits and floats; Pillow's own conversion would clip them to white."""
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0)
    largest = float(values.max())
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif image.mode == "F" and largest <= 1:
        full = 1.0
    else:
        full = 255.0 if largest <= 255 else max(65535.0, largest)
    return Image.fromarray(np.rint(values / full * 255).astype(np.uint8)).convert("RGB")
