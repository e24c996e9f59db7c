"""What people give as a picture: a file, bytes, a Pillow image, an array or a tensor; and names of files in a shell."""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from grounding.errors import ImageError, UsageError
from grounding.files import PICTURE_ENDINGS, user_path
from grounding.images import as_rgb, open_image

Picture = Image.Image | str | Path | bytes | npt.NDArray[Any]
"""One picture; torch tensors are taken too, which this type cannot name without importing torch."""

_WILD = re.compile(r"[*?\[]")
_CHANNELS = (1, 3, 4)


def is_picture(given: object) -> bool:
    """Whether an object is of a kind that `to_image` takes."""
    return isinstance(given, Image.Image | str | Path | bytes | bytearray | np.ndarray) or _is_tensor(given)


def to_image(picture: Picture | Any) -> Image.Image:
    """Make an upright RGB image of what a caller has.

    Args:
        picture: a path; the bytes of an image file; a Pillow image; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
            as Pillow and imageio give it; or a torch tensor [3, H, W] (also of 1 or 4 channels, or [H, W]) as
            torchvision gives it. Arrays and tensors hold bytes (0 to 255) or floats from 0 to 1, channels in the order
            RGB.

    Raises:
        ImageError: it is no such picture, a URL, broken, too small or too large.
    """
    if isinstance(picture, Image.Image):
        return as_rgb(picture)
    if isinstance(picture, str | Path):
        if re.match(r"[a-z][a-z0-9+.-]+://|data:", str(picture), re.IGNORECASE):
            raise ImageError(f"{str(picture)[:60]!r} is a URL: download the picture, and give its path or its bytes")
        return open_image(picture)
    if isinstance(picture, bytes | bytearray):
        return _from_bytes(bytes(picture))
    if isinstance(picture, np.ndarray):
        return _from_array(picture, "an array", "[H, W, 3]")
    if _is_tensor(picture):
        values = picture.detach().cpu()
        values = np.asarray(values.float() if values.is_floating_point() else values)
        if values.ndim == 3 and values.shape[0] in _CHANNELS:
            return _from_array(np.moveaxis(values, 0, -1), "a tensor", "[3, H, W]", values.shape)
        return _from_array(values, "a tensor", "[3, H, W]", values.shape, flat_only=True)
    raise ImageError(
        f"a picture was given as {type(picture).__name__}, expected a path, bytes, a Pillow image, an array [H, W, 3] "
        "or a tensor [3, H, W]"
    )


def picture_files(words: Sequence[str]) -> tuple[str, ...]:
    """List the picture files that words of a command line name.

    A folder stands for the pictures in it, and a pattern such as 'photos/*.jpg' for the files that it matches, both in
    alphabetical order; every other word stands for itself. Files named twice are listed once.

    Raises:
        UsageError: a folder holds no picture, or a pattern matches nothing.
    """
    found: dict[str, None] = {}
    for word in words:
        path = user_path(word)
        if _is_folder(path):
            inside = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in PICTURE_ENDINGS)
            if not inside:
                raise UsageError(f"the folder {word} holds no picture ({', '.join(PICTURE_ENDINGS)}): give another one")
        elif _WILD.search(word) and not _exists(path):
            inside = sorted(glob.glob(str(path), recursive=True))
            if not inside:
                raise UsageError(f"no file matches {word!r}: check the pattern")
        else:
            inside = [word]
        found |= dict.fromkeys(inside)
    return tuple(found)


def looks_like_a_picture(word: str) -> bool:
    """Whether a word of a command line names a picture: a file, folder or pattern, or a path by its looks."""
    path = user_path(word)
    return bool(word) and (
        path.suffix.lower() in PICTURE_ENDINGS or "/" in word or "\\" in word or _WILD.search(word) is not None
        or _exists(path)
    )  # fmt: skip


def is_file(word: str) -> bool:
    """Whether a word of a command line is the path of a file."""
    try:
        return user_path(word).is_file()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_tensor(given: object) -> bool:
    return all(hasattr(given, name) for name in ("detach", "cpu", "is_floating_point"))


def _from_bytes(content: bytes) -> Image.Image:
    what = f"the picture of {len(content):,} bytes"
    try:
        with Image.open(io.BytesIO(content)) as image:
            return as_rgb(image, what)
    except (OSError, Image.DecompressionBombError) as wrong:
        raise ImageError(
            f"{what} is no image file that Pillow reads: give the content of a PNG or JPEG file, or an array"
        ) from wrong


def _from_array(
    values: npt.NDArray[Any], what: str, form: str, shape: Sequence[int] | None = None, flat_only: bool = False
) -> Image.Image:
    shown = "x".join(map(str, shape or values.shape))
    deep = values.ndim == 3 and values.shape[-1] in _CHANNELS and not flat_only
    if not (values.ndim == 2 or deep) or not values.size:
        hint = "one of a batch, " if values.ndim == 4 else ""
        raise ImageError(f"{what} of {shown} was given as a picture, expected {hint}{form} or [H, W]: rearrange it")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif np.issubdtype(values.dtype, np.floating):
        values = _from_shares(values, what)
    elif values.dtype != np.uint8:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise ImageError(
                f"{what} of {values.dtype} with values from {low} to {high} was given as a picture, expected 0 to 255: "
                "scale it to bytes"
            )
        values = values.astype(np.uint8)
    if deep and values.shape[-1] == 1:
        values = values[..., 0]
    return as_rgb(Image.fromarray(np.ascontiguousarray(values)))


def _from_shares(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise ImageError(
            f"{what} of floats from {low:.3g} to {high:.3g} was given as a picture, expected 0 to 1: give the picture "
            "before it is normalised, or bytes"
        )
    return np.rint(values * 255).astype(np.uint8)
