"""Clean a mask of specks: small islands off the object and small holes in it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from grounding.types import BoolArray

_WITH_CORNERS = np.ones((3, 3), bool)


def without_specks(mask: BoolArray, share: float) -> BoolArray:
    """Fill small holes, then remove small islands; the largest island always stays.

    Pixels that touch at a corner alone belong to one island, but not to one hole.

    Args:
        mask: bool [H, W].
        share: islands and holes of less than this share of the mask's pixels are specks, in [0, 1]; 0 changes nothing.

    Returns:
        bool [H, W]; a new array where something changed.
    """
    least = share * np.count_nonzero(mask)
    if least <= 1:
        return mask
    filled = mask | _small(~mask, least)
    return filled & ~_small(filled, least, _WITH_CORNERS)


def _small(of: BoolArray, least: float, structure: BoolArray | None = None) -> BoolArray:
    """The parts of less than `least` pixels, but for the largest part."""
    parts, count = ndimage.label(of, structure)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    small = sizes < least
    small[[0, int(sizes.argmax())]] = False
    return np.asarray(small[parts])
