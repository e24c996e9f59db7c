"""Find grids of cells from how far image tokens move with each column and row of a picture; see `movement`.

A token that moves with nothing is a separator, or a cell of padding. The others are read as a text is read: a row of
cells ends where the next token does not lie to the right, and a grid ends where the next row does not lie below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.probing.movement import Movement, band_edges
from grounding.types import FloatArray, IntArray

STILL = 1e-3  # of the most moved token's movement: less is none
IGNORED = (0.15, 0.65)
"""Movement that does not count, as a share of a token's largest and of its neighbours'. The first is what resampling
spreads; where it leaves no grid, the tower reads overlapping patches and the second is tried."""
NEAR = 0.3  # of a cell: two middles nearer than this are in line
FAR = 1.6  # cells: middles of neighbours are not farther apart
GLOBAL = 0.9  # of the picture: a token that moves with more of both its sides is no cell
SNAP = 0.25  # of a cell: an edge nearer than this to the picture's border is the border


@dataclass(frozen=True)
class ProbedCell:
    """One image token that moves.

    Attributes:
        place: its index among the picture's image tokens.
        position: its position in the sequence.
        middle: (x, y) in pixels of the part of the picture that it shows.
        low: (x, y) of that part's top left corner, roughly: resampling carries it outwards.
        high: (x, y) of the bottom right corner, likewise.
    """

    place: int
    position: int
    middle: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def length(self) -> tuple[float, float]:
        """(width, height)."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]


Row = list[ProbedCell]
Rows = list[Row]


def find_grids(movement: Movement, positions: IntArray, name: str) -> tuple[ImageGrid, ...]:
    """The grids of one picture, in the order of their tokens.

    Args:
        movement: how its n image tokens move.
        positions: (n,) their positions in the sequence.
        name: the model, for error messages.

    Returns:
        The grids. Cells that show padding alone are in none of them. Tiles of equal cells that stand one below another
        with no token between them are one grid, unless a grid of the whole picture shows how many cells a view has.

    Raises:
        ModelError: no token moves, several move with the whole picture, or those that move do not make up grids.
    """
    refused = None
    for ignored in IGNORED:
        try:
            blocks = _read(find_cells(movement, positions, name, ignored), name)
        except ModelError as error:
            refused = refused or error
        else:
            return tuple(_grid(block, movement.size) for block in _equal_views(blocks))
    assert refused is not None
    raise refused


def _read(cells: Sequence[ProbedCell], name: str) -> list[Rows]:
    """The grids of the cells in order.

    Raises:
        ModelError: see `find_grids`.
    """
    blocks = _blocks(_rows(cells))
    if any(min(len(one), len(one[0])) == 1 for one in blocks) and len(blocks) > 1:
        blocks = _lattice(cells) or blocks  # in another order than row by row
    if sum(min(len(one), len(one[0])) == 1 for one in blocks) > 1:  # pieces of grids
        raise ModelError(
            f"the {len(cells)} image tokens of {name} that move with the picture do not follow one another as cells of "
            "a grid do, so probing cannot place them: this model needs a family of its own"
        )
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


def _equal_views(blocks: Sequence[Rows]) -> list[Rows]:
    """Split tiles that stand one below another, where another view of as many columns says how many rows one has."""
    views: list[Rows] = []
    shapes = {(len(one), len(one[0])) for one in blocks}
    for block in blocks:
        rows = min((r for r, c in shapes if c == len(block[0]) and r < len(block)), default=len(block))
        joined = len(block) > 1 and _gap(block[0], block[1]) == 1
        step = rows if joined and len(block) % rows == 0 else len(block)
        views += [block[start : start + step] for start in range(0, len(block), step)]
    return views


def _grid(rows: Rows, size: tuple[int, int]) -> ImageGrid:
    columns = list(zip(*rows, strict=True))
    x0, x1 = _extent(columns, 0, size[0])
    y0, y1 = _extent(rows, 1, size[1])
    positions = np.array([cell.position for row in rows for cell in row], np.int64)
    return ImageGrid(positions, (len(rows), len(columns)), (x0, y0, x1, y1))


def _extent(lines: Sequence[Sequence[ProbedCell]], axis: int, border: int) -> tuple[float, float]:
    """The two edges of equal cells along an axis, from where neighbours meet.

    The first and last cells may reach over the picture's border, so that less is seen of them.
    """
    low = np.array([np.median([cell.low[axis] for cell in line]) for line in lines])
    high = np.array([np.median([cell.high[axis] for cell in line]) for line in lines])
    inner = (high[:-1] + low[1:]) / 2  # what resampling adds to both sides falls out
    if len(inner) > 1:
        length = float(np.median([(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(inner), 2)]))
        start = float(np.median(inner - np.arange(1, len(lines)) * length))
    elif len(inner) == 1:
        length = float(max(inner[0] - low[0], high[1] - inner[0]))
        start = float(inner[0]) - length
    else:
        start, length = float(low[0]), float(high[0] - low[0])
    end = start + len(lines) * length
    return (
        0.0 if abs(start) < SNAP * length else start,
        float(border) if abs(end - border) < SNAP * length else end,
    )
