"""Compare the cells that probing finds with those that a family claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grounding.layout import ImageGrid
from grounding.types import FloatArray


@dataclass(frozen=True)
class Comparison:
    """How two layouts of a picture differ.

    Attributes:
        cells: that both have.
        missing: claimed cells that show the picture and were not found.
        foreign: cells that were found and are claimed by no grid.
        offset: largest distance between the middles of a cell, along either axis and in claimed cells.
    """

    cells: int
    missing: int
    foreign: int
    offset: float

    @property
    def agree(self) -> bool:
        """Whether every cell was found, less than a cell away from where it was claimed."""
        return not self.missing and not self.foreign and self.offset < 1


def compare(found: Sequence[ImageGrid], claimed: Sequence[ImageGrid], size: tuple[int, int]) -> Comparison:
    """Compare two layouts cell by cell, so that it does not matter whether tiles are one grid or several.

    Args:
        found: the grids that probing found.
        claimed: the grids of the family, with positions counted likewise.
        size: (width, height) of the picture in pixels. A claimed cell of which less than half lies in it need not have
            been found.
    """
    at, expected = _cells(found), _cells(claimed)
    seen = {
        position
        for position, (x0, y0, x1, y1) in expected.items()
        if _inside(x0, x1, size[0]) * _inside(y0, y1, size[1]) >= 0.5
    }
    both = sorted(set(at) & set(expected))
    offset = 0.0
    for position in both:
        (a0, b0, a1, b1), (x0, y0, x1, y1) = at[position], expected[position]
        offset = max(offset, abs(a0 + a1 - x0 - x1) / 2 / (x1 - x0), abs(b0 + b1 - y0 - y1) / 2 / (y1 - y0))
    return Comparison(len(both), len(seen - set(at)), len(set(at) - set(expected)), float(offset))


def _inside(low: float, high: float, length: int) -> float:
    """The share of a cell's side that lies in the picture."""
    return max(min(high, length) - max(low, 0), 0) / (high - low)


def _cells(grids: Sequence[ImageGrid]) -> dict[int, FloatArray]:
    """Per position the box of its cell."""
    boxes = {}
    for grid in grids:
        (rows, columns), (x0, y0, x1, y1) = grid.shape, grid.box_xyxy
        xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
        for place, position in enumerate(grid.positions.tolist()):
            row, column = divmod(place, columns)
            boxes[position] = np.array([xs[column], ys[row], xs[column + 1], ys[row + 1]], np.float32)
    return boxes
