"""Images from files: upright RGB from any format that Pillow reads, or an error in one sentence.

What was done to a picture that its viewer may not expect (one frame of many, deep values scaled) stands in its notes.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from grounding.errors import ImageError

MIN_SIDE = 2
"""Smallest side in pixels that is accepted: an image one pixel wide has no room for a point prompt."""

_NOTES = "grounding_notes"  # key of the notes in an image's `info`, which copies keep
_DEPTHS = (8, 10, 12, 14, 16)  # bits of usual sensors and files
_PHOTO_FORMATS = ("MPO",)  # their further frames are previews and depth maps, which nobody looks at
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class PictureLimits:
    """The largest picture that is opened.

    Attributes:
        max_side: longer side in pixels.
        max_pixels: area in pixels.
    """

    max_side: int = 16_384
    max_pixels: int = 120_000_000


DEFAULT_LIMITS = PictureLimits()
_limits: ContextVar[PictureLimits] = ContextVar("limits", default=DEFAULT_LIMITS)


@contextmanager
def larger_pictures(max_pixels: int) -> Iterator[None]:
    """Open pictures of up to `max_pixels` pixels inside the block, however long their sides are.

    Pillow's own limit against decompression bombs is lifted too where it is lower.
    """
    token = _limits.set(PictureLimits(max_side=max_pixels, max_pixels=max_pixels))
    pillows = Image.MAX_IMAGE_PIXELS
    if pillows is not None and max_pixels > pillows:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = pillows
        _limits.reset(token)


def open_image(path: str | Path) -> Image.Image:
    """Read an image as upright RGB.

    EXIF rotation is applied, so pixel coordinates are those of the upright image. Grey, palette, 16-bit and CMYK images
    are converted to RGB, transparency is composited on white, and only the first frame of an animation is read.

    Args:
        path: image file.

    Returns:
        An RGB image, 8 bits a channel, fully loaded; see `notes_of`.

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
                return as_rgb(image, f"the image {file}")
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
            f"open, and the limit is {_limits.get().max_pixels:,}: make it smaller, or {_REMEDY}"
        ) from error
    except MemoryError as error:
        raise ImageError(f"the image {file} does not fit into memory: make it smaller") from error
    except _BROKEN as error:
        raise _broken(f"the image {file}", error) from error


def as_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Convert an opened image to upright RGB; see `open_image`.

    Args:
        image: opened image; its pixels may not be decoded yet.
        name: subject of the error sentences.

    Raises:
        ImageError: the image is too small, too large, or its pixels cannot be decoded.
    """
    _check_size(image.size, name, _limits.get())
    notes = [*notes_of(image), *_frame_note(image)]
    low = _low_bytes(image)
    try:
        image.load()
    except _BROKEN as error:
        raise _broken(name, error) from error
    try:
        upright = ImageOps.exif_transpose(image)
    except _BROKEN:  # broken EXIF: keep the stored orientation
        upright = image
    if low is not None and upright.size == (low := ImageOps.exif_transpose(low)).size:
        upright, scaled = _joined_bytes(upright, low)
        notes += scaled
    if upright.mode.startswith("I") or upright.mode == "F":
        grey, scaled = scaled_grey(np.asarray(upright))
        result, notes = Image.fromarray(grey).convert("RGB"), notes + scaled
    elif upright.has_transparency_data:
        layer = upright.convert("RGBA")
        result = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        result = upright.convert("RGB") if upright.mode != "RGB" or upright is image else upright
    result.info[_NOTES] = tuple(notes)
    return result


def notes_of(image: Image.Image) -> tuple[str, ...]:
    """What `open_image` did to a picture that its viewer may not expect, each in one sentence."""
    return tuple(image.info.get(_NOTES, ()))


def _low_bytes(image: Image.Image) -> Image.Image | None:
    """The lower bytes of a PNG's colours of 16 bits a channel, of which Pillow reads the upper ones.

    Args:
        image: opened, and not loaded.

    Returns:
        An image of the same mode; None for other pictures, and for those that cannot be decoded.
    """
    modes = [tile[3] for tile in getattr(image, "tile", ())]
    stream = getattr(image, "fp", None)
    if image.format != "PNG" or stream is None or modes not in (["RGB;16B"], ["RGBA;16B"]):
        return None
    at = stream.tell()
    try:
        stream.seek(0)
        low = Image.open(io.BytesIO(stream.read()))
        low.tile = [
            tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low.tile
        ]  # the other byte of two
        low.load()
    except _BROKEN:
        return None
    finally:
        stream.seek(at)
    return low


def _joined_bytes(high: Image.Image, low: Image.Image) -> tuple[Image.Image, list[str]]:
    """Scale colours by the bits in use where they leave the upper bits of 16 unused; see `scaled_grey`.

    Args:
        high: upper bytes, RGB or RGBA.
        low: lower bytes, of the same size and mode.

    Returns:
        The image, 8 bits a channel, and notes where it was scaled.
    """
    upper = np.asarray(high)
    if int(upper[..., :3].max()) >= 1 << (_DEPTHS[-2] - 8):
        return high, []
    values = upper[..., :3].astype(np.uint16) << 8 | np.asarray(low)[..., :3]
    scaled, notes = scaled_grey(values)
    joined = Image.fromarray(np.concatenate([scaled, upper[..., 3:]], axis=-1), high.mode)
    return joined, notes


def scaled_grey(values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Convert values of more than 8 bits to 8 bits.

    Whole numbers are divided by the largest number of as many bits as are in use: 8, 10, 12, 14 or 16. A sensor's 12
    bits in a file of 16 would otherwise be black. Floats up to 1 are taken as shares, up to 255 as 8 bits. All other
    values are scaled from their least to their largest.

    Args:
        values: [H, W] numbers, or [H, W, 3]; what is not finite becomes black.

    Returns:
        uint8 of the same shape, and notes where the scale is not that of the file.
    """
    known = np.asarray(values, np.float64)
    finite = np.isfinite(known)
    low = float(known.min(where=finite, initial=np.inf)) if finite.any() else 0.0
    high = float(known.max(where=finite, initial=-np.inf)) if finite.any() else 0.0
    notes: list[str] = []
    least, most = 0.0, high
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high < 1 << _DEPTHS[-1]:
        bits = next(depth for depth in _DEPTHS if high < 1 << depth)
        most = float((1 << bits) - 1)
        if bits < _DEPTHS[-1] and high > 0:
            notes.append(f"the picture's values use only the lowest {bits} bits, and are scaled by those")
    elif low >= 0 and high <= 1:
        most = 1.0
    elif low >= 0 and high <= 255:
        most = 255.0
    else:
        least = min(low, 0.0)
        notes.append(f"the picture's values from {low:g} to {high:g} are scaled to black and white")
    shares = (np.where(finite, known, least) - least) / ((most - least) or 1.0)
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8), notes


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


def _check_size(size: tuple[int, int], name: str, limits: PictureLimits) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(f"{name} is {width}x{height} pixels, but at least {MIN_SIDE}x{MIN_SIDE} are needed")
    if max(size) > limits.max_side:
        raise ImageError(
            f"{name} is {width:,}x{height:,} pixels, over the limit of {limits.max_side:,} for the longer side: make "
            f"it smaller, or {_REMEDY}"
        )
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name} is {width:,}x{height:,} = {width * height:,} pixels, over the limit of {limits.max_pixels:,}: "
            f"make it smaller, or {_REMEDY}"
        )


_REMEDY = "raise the limit with --max-pixels N (in Python: grounding.images.larger_pictures)"


def _frame_note(image: Image.Image) -> list[str]:
    """A note about further frames or pages."""
    if image.format in _PHOTO_FORMATS:
        return []
    try:
        frames = int(getattr(image, "n_frames", 1))
    except _BROKEN:  # a later frame is broken
        return ["the picture has several frames or pages, of which the first is read"]
    return [f"the picture has {frames} frames or pages, of which the first is read"] if frames > 1 else []
