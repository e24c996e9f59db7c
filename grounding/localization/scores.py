"""Score every head of a model on one sample, by its maps alone.

- `share`: the row's attention on the image, S_img (Kang et al., CVPR 2025, localisation heads).
- `entropy`: the spatial entropy of the row's map, of the same paper; see `grounding.maps.selection`.
- `agreement`: the share of the row's image attention on the mask, each cell weighted by the share of it that the mask
  covers (energy-based pointing game, Score-CAM, arXiv 1910.01279).

Shape letters: L layers, H heads, T words, K image keys.

Notes:
    The paper reads the row of the prompt's last token. Rows of the expression's own words are our choice, for models
    whose last token does not look for the thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grounding.errors import ImageError
from grounding.geometry import cell_coverage
from grounding.maps.base import LAST, grid_columns, image_columns
from grounding.maps.selection import spatial_entropy
from grounding.types import AttentionMaps, BoolArray, FloatArray, WordKind

Row = Literal["last", "words"]


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head on one sample, of the L layers that have attention weights.

    Attributes:
        layers: the L layers, counted from 0.
        share: [L, H] in [0, 1].
        entropy: [L, H], >= 0.
        agreement: [L, H] in [0, 1]; None without a mask.
    """

    layers: tuple[int, ...]
    share: FloatArray
    entropy: FloatArray
    agreement: FloatArray | None = None


def row_of(maps: AttentionMaps, row: Row) -> FloatArray:
    """The row that is judged, [L, H, K], mean over steps: the last token's, or the mean of the content words'."""
    last = [word.text == LAST for word in maps.words]
    content = [word.kind == WordKind.CONTENT for word in maps.words]
    chosen = np.flatnonzero(content if row == "words" and any(content) else last)
    return maps.values[:, :, :, chosen].mean(axis=(0, 3))


def head_scores(maps: AttentionMaps, row: Row, mask: BoolArray | None = None) -> HeadScores:
    """Score every head.

    Args:
        maps: recorded with single layers and heads.
        row: the row that is judged.
        mask: bool [H, W] in the image's size, true on the thing.

    Raises:
        ImageError: the mask is empty.
    """
    values = row_of(maps, row)
    entropy = np.array([[spatial_entropy(maps, head) for head in layer] for layer in values], np.float32)
    share = values[..., image_columns(maps)].sum(axis=-1)
    return HeadScores(maps.layers, share, entropy, None if mask is None else agreement(maps, values, mask))


def agreement(maps: AttentionMaps, values: FloatArray, mask: BoolArray) -> FloatArray:
    """The share [L, H] of the image attention of rows [L, H, K] on the mask.

    Raises:
        ImageError: the mask is empty.
    """
    if not mask.any():
        raise ImageError("a mask has no pixel of the thing: give a mask that is not black there")
    on = total = np.zeros(values.shape[:2], np.float32)
    for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
        covered = cell_coverage(mask, grid.shape, grid.box_xyxy).ravel()
        on = on + (values[..., columns] * covered).sum(axis=-1)
        total = total + values[..., columns].sum(axis=-1)
    return np.divide(on, total, out=np.zeros_like(on), where=total > 0)
