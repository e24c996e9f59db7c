"""Images from files: upright RGB from any format that Pillow reads, or an error in one sentence."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from grounding.errors import ImageError

MIN_SIDE = 2
"""Smallest side in pixels that is accepted: an image one pixel wide has no room for a point prompt."""
MAX_SIDE = 16_384
"""Largest side in pixels that is accepted."""
MAX_PIXELS = 120_000_000
"""Largest area in pixels that is accepted."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


def open_image(path: str | Path, max_side: int = MAX_SIDE, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as upright RGB.

    EXIF rotation is applied, so pixel coordinates are those of the upright image. Grey, palette, 16-bit and CMYK images
    are converted to RGB, transparency is composited on white, and only the first frame of an animation is read.

    Args:
        path: image file.
        max_side: largest side in pixels; checked before the pixels are decoded.
        max_pixels: largest area in pixels.

    Returns:
        An RGB image, 8 bits a channel, fully loaded.

    Raises:
        ImageError: the file is missing, not readable, not an image, broken, too small or too large.
    """
    file = Path(path)
    _check_name(file)
    if file.is_dir():
        raise ImageError(f"{file} is a folder, but an image file is needed: name the pictures in it")
    try:
        with warnings.catch_warnings():
            # Pillow's warning would repeat the check of the limits below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return as_rgb(image, f"the image {file}", max_side, max_pixels)
    except FileNotFoundError as error:
        raise ImageError(f"there is no image at {file}: check the path") from error
    except PermissionError as error:
        raise ImageError(f"the image {file} may not be read: change its permissions") from error
    except UnidentifiedImageError as error:
        empty = file.is_file() and file.stat().st_size == 0
        what = "is an empty file" if empty else "is not an image in a format that Pillow reads"
        raise ImageError(f"{file} {what}: give a PNG, JPEG, WebP, TIFF, BMP or GIF file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"the image {file} has more than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that Pillow agrees to "
            f"open; the limits here are max_side={max_side:,} and max_pixels={max_pixels:,}: make it smaller"
        ) from error
    except MemoryError as error:
        raise ImageError(f"the image {file} does not fit into memory: make it smaller") from error
    except _BROKEN as error:
        raise _broken(f"the image {file}", error) from error


def as_rgb(
    image: Image.Image, name: str = "the image", max_side: int = MAX_SIDE, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Convert an opened image to upright RGB; see `open_image`.

    Args:
        image: opened image; its pixels may not be decoded yet.
        name: subject of the error sentences.
        max_side: largest side in pixels.
        max_pixels: largest area in pixels.

    Raises:
        ImageError: the image is too small, too large, or its pixels cannot be decoded.
    """
    _check_size(image.size, name, max_side, max_pixels)
    try:
        image.load()
    except _BROKEN as error:
        raise _broken(name, error) from error
    try:
        upright = ImageOps.exif_transpose(image)
    except _BROKEN:  # broken EXIF: keep the stored orientation
        upright = image
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_deep_grey(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB") if upright.mode != "RGB" or upright is image else upright


def _broken(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} is broken or cut short ({reason}): get or export it again")


def _check_name(file: Path) -> None:
    """Refuse a path that no file can have: with a zero byte, or with letters that the file system cannot spell."""
    try:
        possible = b"\0" not in os.fsencode(file)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        shown = str(file).encode("ascii", "backslashreplace").decode()
        raise ImageError(f"there is no image at '{shown}': no file can have that name, so check the path")


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
    """Convert integers of more than 8 bits, and floats, which Pillow's own conversion would clip to white."""
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
