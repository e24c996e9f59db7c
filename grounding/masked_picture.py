"""Open a picture with the mask of a thing in it, as manifests of calibration name them, and tell two such apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grounding.errors import ImageError
from grounding.files import user_path

if TYPE_CHECKING:
    from PIL import Image

Mask = npt.NDArray[np.bool_]


def open_masked(folder: Path, image: str, mask: str | None) -> tuple[Image.Image, Mask | None]:
    """Open a picture and the mask that belongs to it.

    Args:
        folder: where relative paths start.
        image: the picture's path.
        mask: the path of a picture that is not black where the mask is true; None for no mask.

    Returns:
        The RGB picture, and bool [H, W] of its size or None.

    Raises:
        ImageError: a picture is missing or broken, or the mask is of another size.
    """
    from grounding.images import open_image

    picture = open_image(folder / user_path(image))
    if mask is None:
        return picture, None
    path = folder / user_path(mask)
    found = np.asarray(np.asarray(open_image(path)).any(axis=-1))
    if found.shape != (picture.height, picture.width):
        raise ImageError(
            f"the mask {path} is {found.shape[1]}x{found.shape[0]} pixels, but its image {picture.width}x"
            f"{picture.height}: expected one size"
        )
    return picture, found


def picture_digest(image: Image.Image, words: Sequence[str | None], mask: Mask | None) -> bytes:
    """Compute the SHA-256 of a picture's size and pixels, of words that belong to it, and of its mask."""
    whole = hashlib.sha256(json.dumps([image.size, *words]).encode())
    whole.update(image.convert("RGB").tobytes())
    whole.update(b"" if mask is None else np.packbits(mask).tobytes())
    return whole.digest()
