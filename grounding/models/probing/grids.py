"""Find grids of cells from how far image tokens move with each column and row of a picture; see `movement`.

A token that moves with no part of the picture is a separator, or a cell of padding. The others are read as a text is
read: a row of cells ends where the next token does not lie to the right, and a grid ends where the next row does not
lie below. Then cells of padding are added around (`grounding.models.probing.padding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.probing.cells import ProbedCell, Row, Rows
from grounding.models.probing.movement import STILL, Movement, band_edges
from grounding.models.probing.padding import padded_views
from grounding.models.probing.views import ProbedView, grid_of
from grounding.types import FloatArray, IntArray

IGNORED = (0.15, 0.65)
"""Movement that does not count, as a share of a token's largest and of its neighbours'. The first is what resampling
spreads; where it leaves no grid, the tower reads overlapping patches and the second is tried."""
NEAR = 0.3  # of a cell: two middles nearer than this are in line
FAR = 1.6  # cells: middles of neighbours are not farther apart
GLOBAL = 0.9  # of the picture: a token that moves with more of both its sides is no cell


def find_grids(movement: Movement, positions: IntArray, name: str) -> tuple[ImageGrid, ...]:
    """The grids of one picture, in the order of their tokens.

    Args:
        movement: how its n image tokens move.
        positions: (n,) their positions in the sequence.
        name: the model, for error messages.

    Returns:
        The grids. A view that shows padding alone is none of them. Tiles of equal cells that stand one below another
        with no token between them are one grid, unless a grid of the whole picture shows how many cells a view has.

    Raises:
        ModelError: no token moves, several move with the whole picture, or those that move do not make up grids.
    """
    refused = None
    for ignored in IGNORED:
        try:
            cells = find_cells(movement, positions, name, ignored)
            padding = frozenset(positions[movement.seen].tolist()) - {cell.position for cell in cells}
            views = _equal_views(padded_views(_read(cells), padding))
            if sum(min(view.shape) == 1 for view in views) > 1:  # pieces of grids
                raise ModelError(
                    f"the {len(cells)} image tokens of {name} that move with the picture do not follow one another as "
                    "cells of a grid do, so probing cannot place them: this model needs a family of its own"
                )
        except ModelError as error:
            refused = refused or error
        else:
            return tuple(grid_of(view, views, movement.size) for view in views)
    assert refused is not None
    raise refused


def _read(cells: Sequence[ProbedCell]) -> list[Rows]:
    """The grids of the cells in order."""
    blocks = _blocks(_rows(cells))
    if any(min(len(one), len(one[0])) == 1 for one in blocks) and len(blocks) > 1:
        blocks = _lattice(cells) or blocks  # in another order than row by row
    return blocks


def find_cells(movement: Movement, positions: IntArray, name: str, ignored: float) -> list[ProbedCell]:
    """The tokens that move, with where they lie.

    Raises:
        ModelError: see `find_grids`.
    """
    by_axis = (movement.columns, movement.rows)
    if len(movement.columns) != len(positions):
        raise ModelError(
            f"probing saw {len(movement.columns)} image tokens of {name} for a picture that has {len(positions)} in "
            "this prompt, so its cells cannot be placed: give one picture for each prompt"
        )
    largest = [moved.max(axis=1) for moved in by_axis]
    moves = np.logical_and(*(one > STILL * one.max() for one in largest))
    if not moves.any():
        raise ModelError(
            f"no image token of {name} moves when the picture changes, so probing cannot see its cells: only models "
            "whose vision features take the places of image tokens can be probed"
        )
    shares = [_contested(moved[moves], ignored) for moved in by_axis]
    cells = [
        _cell(movement.size, (shares[0][number], shares[1][number]), int(place), int(positions[place]))
        for number, place in enumerate(np.flatnonzero(moves))
    ]
    spread = [cell for cell in cells if all(cell.length[axis] > GLOBAL * movement.size[axis] for axis in (0, 1))]
    if len(spread) > 1:
        raise ModelError(
            f"{len(spread)} image tokens of {name} move with every part of the picture, so probing cannot tell which "
            "part each stands for: this model needs a family of its own"
        )
    return cells


def _contested(moved: FloatArray, ignored: float) -> FloatArray:
    """[n, bands] each token's share of its own largest movement, beside the largest such share at each band.

    Towers that read overlapping patches move neighbours too, but less than the cell itself.
    """
    own = moved / moved.max(axis=1, keepdims=True)
    beside: FloatArray = own / np.maximum(own.max(axis=0, keepdims=True), STILL)
    return np.where(beside < ignored, 0, own)


def _cell(size: tuple[int, int], shares: tuple[FloatArray, FloatArray], place: int, position: int) -> ProbedCell:
    sides = []
    for axis, share in enumerate(shares):
        edges = band_edges(size[axis], len(share))
        weights, seen = share * np.diff(edges), np.flatnonzero(share)
        middle = (weights * (edges[:-1] + edges[1:])).sum() / weights.sum() / 2
        sides.append((float(middle), float(edges[seen[0]]), float(edges[seen[-1] + 1])))
    (x, x0, x1), (y, y0, y1) = sides
    return ProbedCell(place, position, (x, y), (x0, y0), (x1, y1))


def _rows(cells: Sequence[ProbedCell]) -> Rows:
    rows: Rows = [[cells[0]]]
    for before, cell in pairwise(cells):
        if cell.place == before.place + 1 and _follows(before, cell, 0):
            rows[-1].append(cell)
        else:
            rows.append([cell])
    return rows


def _blocks(rows: Rows) -> list[Rows]:
    """Rows that lie one below another, with the same number of tokens between them."""
    blocks: list[Rows] = [[rows[0]]]
    for before, row in pairwise(rows):
        block = blocks[-1]
        steady = len(block) == 1 or _gap(before, row) == _gap(block[0], block[1])
        if steady and len(row) == len(before) and all(_follows(*pair, 1) for pair in zip(before, row, strict=True)):
            block.append(row)
        else:
            blocks.append([row])
    return blocks


def _gap(above: Row, below: Row) -> int:
    return below[0].position - above[-1].position


def _follows(before: ProbedCell, cell: ProbedCell, axis: int) -> bool:
    """Whether a cell is the next to the right (axis 0) or below (1) in the same grid."""
    step = cell.middle[axis] - before.middle[axis]
    aside = abs(cell.middle[1 - axis] - before.middle[1 - axis])
    length, across = ((before.length[at] + cell.length[at]) / 2 for at in (axis, 1 - axis))
    return NEAR * length < step < FAR * length and aside < NEAR * across


def _lattice(cells: Sequence[ProbedCell]) -> list[Rows]:
    """All cells as one grid, whatever their order; none where they do not fill one."""
    lines = [_lines(cells, axis) for axis in (0, 1)]
    places = {(y, x): cell for cell, x, y in zip(cells, *lines, strict=True)}
    height, width = (max(line) + 1 for line in reversed(lines))
    if len(places) != len(cells) or len(cells) != height * width:
        return []
    return [[[places[row, column] for column in range(width)] for row in range(height)]]


def _lines(cells: Sequence[ProbedCell], axis: int) -> list[int]:
    """For each cell the number of its column (axis 0) or row (1)."""
    middles = np.array([cell.middle[axis] for cell in cells])
    order = np.argsort(middles)
    near = NEAR * float(np.median([cell.length[axis] for cell in cells]))
    numbers = np.empty(len(cells), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(middles[order]) > near)])
    return [int(one) for one in numbers]


def _equal_views(views: Sequence[ProbedView]) -> list[ProbedView]:
    """Split tiles that stand one below another, where another view of as many columns says how many rows one has."""
    split: list[ProbedView] = []
    shapes = {view.shape for view in views}
    for view in views:
        (count, columns), block = view.shape, view.block
        rows = min((r for r, c in shapes if c == columns and r < count), default=count)
        joined = len(block) > 1 and _gap(block[0], block[1]) == 1
        if rows < count == len(block) and columns == len(block[0]) and joined and count % rows == 0:
            split += [ProbedView.of(block[start : start + rows]) for start in range(0, count, rows)]
        else:
            split.append(view)
    return split
