"""Boxes of masks, and shares of grid cells that a mask covers.

Boxes are (x0, y0, x1, y1) in pixels of the original image, origin top left, x1 and y1 exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]


def tight_box(mask: npt.NDArray[np.bool_]) -> Box:
    """Compute the tightest box around a mask.

    Args:
        mask: bool [H, W].

    Returns:
        (x0, y0, x1, y1), whole numbers of pixels; (0, 0, 0, 0) for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def uncovered_share(boxes: Sequence[Box], size: tuple[int, int]) -> float:
    """The share of an image that lies in none of the boxes.

    Args:
        boxes: (x0, y0, x1, y1); they may overlap and reach over the image's border.
        size: (width, height) of the image.

    Returns:
        A number in [0, 1].
    """
    edges = [
        np.unique(np.clip([0, length, *(box[at] for box in boxes for at in (axis, axis + 2))], 0, length))
        for axis, length in enumerate(size)
    ]
    x, y = ((one[:-1] + one[1:]) / 2 for one in edges)  # centres of the rectangles between all edges
    seen = np.zeros((len(y), len(x)), np.bool_)
    for x0, y0, x1, y1 in boxes:
        seen |= ((y > y0) & (y < y1))[:, None] & ((x > x0) & (x < x1))[None]
    areas = np.diff(edges[1])[:, None] * np.diff(edges[0])[None]
    return float(areas[~seen].sum() / areas.sum())


def cell_coverage(
    mask: npt.NDArray[np.bool_], shape: tuple[int, ...], box_xyxy: Box | None = None
) -> npt.NDArray[np.float32]:
    """Compute the share of each grid cell that a mask covers, exact for any pair of sizes.

    Args:
        mask: bool [H, W].
        shape: (h, w) of the grid, whose cells are equal.
        box_xyxy: where the grid lies, in pixels of the mask; the whole mask if None. Outside the image there is no
            mask.

    Returns:
        [h, w] float32 in [0, 1].
    """
    height, width = mask.shape
    x0, y0, x1, y1 = box_xyxy or (0.0, 0.0, float(width), float(height))
    rows, columns = _overlap(shape[0], y0, y1, height), _overlap(shape[1], x0, x1, width)
    return rows @ mask.astype(np.float32) @ columns.T


def _overlap(cells: int, low: float, high: float, pixels: int) -> npt.NDArray[np.float32]:
    """[cells, pixels] share of the length of each of the equal cells in [low, high] that each pixel takes up."""
    edges = np.linspace(low, high, cells + 1)
    start = np.maximum(edges[:-1, None], np.arange(pixels))
    end = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return (np.clip(end - start, 0, None) * cells / (high - low)).astype(np.float32)
