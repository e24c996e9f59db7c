"""One grid of cells as probing sees it, and the box that it covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from grounding.layout import ImageGrid
from grounding.models.probing.cells import ProbedCell, Rows
from grounding.types import FloatArray, IntArray

SNAP = 0.25  # of a cell: an edge nearer than this to the picture's border is the border


@dataclass(frozen=True, eq=False)
class ProbedView:
    """A grid of which a part shows the picture.

    Attributes:
        block: the rows of cells that show it.
        positions: [rows, columns] positions of all cells, those of padding included.
        above: rows of padding above the block.
        left: columns of padding left of it.
    """

    block: Rows
    positions: IntArray  # [rows, columns]
    above: int = 0
    left: int = 0

    @classmethod
    def of(cls, block: Rows) -> ProbedView:
        """The view of a block without padding."""
        return cls(block, np.array([[cell.position for cell in row] for row in block], np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.positions.shape[0], self.positions.shape[1]

    def lines(self, axis: int) -> list[tuple[ProbedCell, ...]]:
        """The block's columns (axis 0) or rows (1)."""
        return [tuple(row) for row in self.block] if axis else list(zip(*self.block, strict=True))

    def padding(self, axis: int) -> tuple[int, int]:
        """Columns (axis 0) or rows (1) of padding before and behind the block."""
        before = self.above if axis else self.left
        return before, self.shape[1 - axis] - before - len(self.lines(axis))


def grid_of(view: ProbedView, views: Sequence[ProbedView], size: tuple[int, int]) -> ImageGrid:
    """The grid of a view.

    Args:
        view: one of `views`.
        views: all views of the picture.
        size: (width, height) of the picture in pixels.
    """
    (x0, x1), (y0, y1) = (_edges(view, views, axis, size[axis]) for axis in (0, 1))
    return ImageGrid(view.positions.reshape(-1), view.shape, (x0, y0, x1, y1))


def _edges(view: ProbedView, views: Sequence[ProbedView], axis: int, border: int) -> tuple[float, float]:
    """The two edges of a view along an axis."""
    length = _length(view, axis)
    if not _sure(view, axis):
        length = _likely_length(view, views, axis, length)
    before, behind = view.padding(axis)
    start = _start(view, axis, length)
    end = start + len(view.lines(axis)) * length
    if not before and abs(start) < SNAP * length:
        start = 0.0
    if not behind and abs(end - border) < SNAP * length:
        end = float(border)
    return start - before * length, end + behind * length


def _seen(view: ProbedView, axis: int) -> tuple[FloatArray, FloatArray]:
    """(low, high) of each line of cells along an axis, roughly.

    The first and last cells may reach over the picture's border, so that less is seen of them.
    """
    lines = view.lines(axis)
    low: FloatArray = np.array([np.median([cell.low[axis] for cell in line]) for line in lines])
    high: FloatArray = np.array([np.median([cell.high[axis] for cell in line]) for line in lines])
    return low, high


def _length(view: ProbedView, axis: int) -> float:
    """The length of equal cells along an axis, from where neighbours meet."""
    low, high = _seen(view, axis)
    inner = (high[:-1] + low[1:]) / 2  # what resampling adds to both sides falls out
    if len(inner) > 1:
        return float(np.median([(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(inner), 2)]))
    return float(max(inner[0] - low[0], high[1] - inner[0]) if len(inner) else high[0] - low[0])


def _start(view: ProbedView, axis: int, length: float) -> float:
    """Where the first line of cells of some length starts."""
    low, high = _seen(view, axis)
    inner = (high[:-1] + low[1:]) / 2
    if len(inner):
        return float(np.median(inner - np.arange(1, len(low)) * length))
    before, behind = view.padding(axis)
    # A picture lies in the middle of padding on both sides, and else at one border.
    beyond = float(length - (high[0] - low[0]))
    return float(low[0]) - (beyond / 2 if before and behind else beyond if before else 0.0)


def _sure(view: ProbedView, axis: int) -> bool:
    """Whether two whole cells are seen along an axis, whatever the first and the last show."""
    return not any(view.padding(axis)) or len(view.lines(axis)) > 3


def _likely_length(view: ProbedView, views: Sequence[ProbedView], axis: int, seen: float) -> float:
    """The length of a cell of which `seen` pixels are seen: that of a tile like it, else that of a square cell.

    A processor that pads keeps the picture's aspect, so that its cells are squares.
    """
    alike = [_length(one, axis) for one in views if one.shape == view.shape and _sure(one, axis)]
    longer = [length for length in alike if length > (1 - SNAP) * seen]
    if longer:
        return max(min(longer), seen)
    return max(_length(view, 1 - axis), seen) if _sure(view, 1 - axis) else seen
