"""Add the cells of padding to what a picture shows of a grid.

A processor that keeps a picture's aspect pads it to a square, a canvas of tiles or whole cells. No part of the picture
moves the tokens of the padding, but noise on the padding does (`Movement.seen`). Their number before, between and
behind the rows that are seen says how wide the grid is and where in it the picture lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from grounding.models.probing.cells import Rows
from grounding.models.probing.views import ProbedView


def padded_views(blocks: Sequence[Rows], padding: frozenset[int]) -> list[ProbedView]:
    """The grids with their cells of padding.

    Args:
        blocks: the cells that show the picture, grid by grid, in rows of equal length.
        padding: positions of the tokens that show padding alone.

    Returns:
        One view per block. Where a grid's width cannot be told, padding is left out.

    Notes:
        Of a grid of which one row alone is seen, the width is that of another grid with as many cells, or that of a
        square. This is our choice; no model that is known here has another.
    """
    views = {at: _grown(block, padding) for at, block in enumerate(blocks) if len(block) > 1}
    shapes = sorted({view.shape for view in views.values()})
    for at, block in enumerate(blocks):
        if at not in views:
            views[at] = _grown_row(block, padding, shapes)
    return [views[at] for at in range(len(blocks))]


def _grown(block: Rows, padding: frozenset[int]) -> ProbedView:
    """The view of a block of several rows."""
    between = {position for one, other in pairwise(block) for position in _between(one[-1].position, other[0].position)}
    if between <= padding and _ascend(block):
        return _in_line(block, block[1][0].position - block[0][0].position, padding)
    return _in_rows(block, padding)


def _grown_row(block: Rows, padding: frozenset[int], shapes: Sequence[tuple[int, int]]) -> ProbedView:
    """The view of one row of cells."""
    first, last = block[0][0].position, block[0][-1].position
    before, behind = _run(first, -1, padding), _run(last, 1, padding)
    count, side = before + len(block[0]) + behind, math.isqrt(before + len(block[0]) + behind)
    if not before and not behind:
        return ProbedView.of(block)
    for _, width in [shape for shape in shapes if shape[0] * shape[1] == count] or [(side, side)] * (side**2 == count):
        return _in_line(block, width, padding)
    return ProbedView.of(block)


def _in_line(block: Rows, width: int, padding: frozenset[int]) -> ProbedView:
    """A grid of `width` columns with no token between its cells."""
    before, behind = _run(block[0][0].position, -1, padding), _run(block[-1][-1].position, 1, padding)
    above, left = divmod(before, width)
    right = width - len(block[0]) - left
    below, rest = divmod(behind - right, width)
    if right < 0 or behind < right or rest:
        return ProbedView.of(block)
    rows = above + len(block) + below
    start = block[0][0].position - before
    return ProbedView(block, start + np.arange(rows * width).reshape(rows, width), above, left)


def _in_rows(block: Rows, padding: frozenset[int]) -> ProbedView:
    """A grid with other tokens between its rows, the same number of them each time."""
    left = min(_run(row[0].position, -1, padding) for row in block)
    right = min(_run(row[-1].position, 1, padding) for row in block)
    step = block[1][0].position - block[0][0].position
    line = block[0][0].position - left + np.arange(left + len(block[0]) + right)
    if step <= len(line) - 1 or not _ascend(block):  # columns first
        return ProbedView.of(block)
    above = _lines(line, -step, padding)
    below = _lines(line + (len(block) - 1) * step, step, padding)
    rows = np.arange(-above, len(block) + below)
    return ProbedView(block, line + step * rows[:, None], above, left)


def _ascend(block: Rows) -> bool:
    """Whether cells follow one another row by row."""
    positions = [cell.position for row in block for cell in row]
    return positions == sorted(positions)


def _between(low: int, high: int) -> range:
    return range(low + 1, high)


def _run(position: int, step: int, padding: frozenset[int]) -> int:
    """How many tokens of padding follow a position, or stand before it (step -1)."""
    count = 0
    while position + step * (count + 1) in padding:
        count += 1
    return count


def _lines(line: np.ndarray, step: int, padding: frozenset[int]) -> int:
    """How many whole lines of padding lie below a line, or above it."""
    count = 0
    while padding.issuperset((line + step * (count + 1)).tolist()):
        count += 1
    return count
