"""Attention sinks: columns that draw attention whatever the words are.

Both stages share what takes a suppressed cell's place: nothing (`zero`), or the mean of the eight neighbours that are
not suppressed themselves (`neighbours`), so that a sink on the object leaves no hole in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from scipy import ndimage

from grounding.errors import MethodError
from grounding.maps.base import Stage, grid_columns, image_columns, image_mass, lost_share, on_grid
from grounding.types import AttentionMaps, BoolArray, FloatArray, StageReport

Fill = Literal["zero", "neighbours"]


@dataclass(frozen=True)
class ColumnOutliers(Stage):
    """Suppress image columns that stand out for every row alike. The test is ours; it reads no hidden state.

    An object stands out too, so being large is not enough. With p[t,c] the share of row t's image attention on cell c
    (mean over layers and heads), cell c of a grid is a sink when all three hold:

    1. its mean over rows is an outlier: (mean - median) / scale > `factor`, where scale is the median absolute
       deviation times 1.4826, and at least a tenth of the mean cell, so that a nearly empty map has no tiny scale;
    2. the rows agree: standard deviation over rows / mean <= `variation`. The words of the object look at the object,
       the others less so; a sink is looked at by all of them;
    3. it is alone: larger than `isolation` times the largest of its eight neighbours. An object rarely ends at one
       cell.

    Rows are the words (run this stage before the words are chosen: "the" is a good witness) and the rows of the
    background, if there is one. With fewer than two rows a sink cannot be told from an object, and nothing is done.
    The background loses the same cells.

    Attributes:
        factor: robust z-score above which a column is an outlier.
        variation: largest coefficient of variation over the rows.
        isolation: least ratio to the largest neighbour; 0 turns this test off.
        fill: what a suppressed cell becomes.
    """

    name: ClassVar[str] = "sinks-columns"
    factor: float = 5.0
    variation: float = 0.5
    isolation: float = 2.0
    fill: Fill = "neighbours"

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.variation < 0 or self.isolation < 0:
            raise MethodError("stage 'sinks-columns' needs factor > 0, variation >= 0 and isolation >= 0")

    def __call__(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Find the sinks with the background's rows as further witnesses, and suppress them in both."""
        background = maps.background
        suppressed = self.find(maps)
        result, report = self._suppress(maps, suppressed)
        if background is None:
            return result, report
        same = [grid.shape for grid in background.grids] == [grid.shape for grid in maps.grids]
        there = suppressed if same else self.find(background)
        return replace(result, background=self._suppress(background, there)[0]), report

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Find and suppress the sinks of these maps alone."""
        return self._suppress(maps, self.find(maps))

    def find(self, maps: AttentionMaps) -> tuple[BoolArray, ...]:
        """Per grid a [h, w] mask of sink cells."""
        reference_words = [_row_shares(maps)]
        other = maps.background
        if other is not None and [g.shape for g in other.grids] == [g.shape for g in maps.grids]:
            reference_words.append(_row_shares(other))
        found = []
        for index, grid in enumerate(maps.grids):
            rows = np.concatenate([shares[index] for shares in reference_words])  # [R, h, w]
            found.append(self._sinks(rows) if len(rows) > 1 else np.zeros(grid.shape, bool))
        return tuple(found)

    def _sinks(self, rows: FloatArray) -> BoolArray:
        mean = rows.mean(axis=0)
        middle = np.median(mean)
        scale = max(1.4826 * float(np.median(np.abs(mean - middle))), 0.1 * float(mean.mean()))
        outlier = mean - middle > self.factor * scale
        agreed = rows.std(axis=0) <= self.variation * mean
        around = ndimage.maximum_filter(mean, footprint=_RING, mode="constant", cval=0.0)
        return outlier & agreed & (mean > self.isolation * around) & (mean > 0)

    def _suppress(self, maps: AttentionMaps, sinks: tuple[BoolArray, ...]) -> tuple[AttentionMaps, StageReport]:
        values = maps.values.copy()
        cells = []
        for number, (columns, grid, mask) in enumerate(zip(grid_columns(maps), maps.grids, sinks, strict=True)):
            if mask.any():
                filled = fill_cells(on_grid(maps.values, columns, grid), mask, self.fill)
                values[..., columns] = filled.reshape(*filled.shape[:-2], -1)
                cells += [[number, int(row), int(column)] for row, column in np.argwhere(mask)]
        result = replace(maps, values=values)
        detail = f"{len(cells)} of {sum(mask.size for mask in sinks)} image columns suppressed"
        if len(maps.words) < 2 and maps.background is None:
            detail += ": one row alone cannot tell a sink from an object"
        removed = lost_share(image_mass(maps), image_mass(result))
        return result, StageReport(self.name, removed, detail, {"grid_row_column": cells})


@dataclass(frozen=True)
class ResidualSinks(Stage):
    """Suppress image columns whose residual stream is that of a sink (Kang et al., ICLR 2025, "See What You Are Told").

    A key is a sink of layer l where phi >= `tau`, phi being the largest RMS-normalised entry of the block's input in
    the sink dimensions. The paper gives tau = 20; its code tests `>` and skips layers 0 and 1. Each layer loses its
    own sinks. The discovery of sink dimensions from the first token is ours. What takes the cell's place is ours: the
    paper moves attention to other tokens inside the model, which a map does not need.

    Attributes:
        tau: threshold on phi.
        skip_layers: first layers left alone.
        fill: what a suppressed cell becomes.
    """

    name: ClassVar[str] = "sinks-residual"
    tau: float = 20.0
    skip_layers: int = 2
    fill: Fill = "neighbours"

    def __post_init__(self) -> None:
        if self.tau <= 0 or self.skip_layers < 0:
            raise MethodError("stage 'sinks-residual' needs tau > 0 and skip_layers >= 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Suppress each layer's sinks; needs `residual_sinks` [L, K].

        Raises:
            MethodError: phi was not recorded, or the layers have been averaged already.
        """
        phi = maps.residual_sinks
        if phi is None:
            raise MethodError(
                "stage 'sinks-residual' needs the residual stream's sink strength per layer and key, but the maps "
                "carry none: record with residual_sinks=True, and place the stage before 'layers-mean'"
            )
        if phi.shape != (maps.values.shape[0], maps.values.shape[3]):
            raise MethodError(
                f"stage 'sinks-residual' needs phi of shape [layers, keys] = [{maps.values.shape[0]}, "
                f"{maps.values.shape[3]}], got {list(phi.shape)}: record every layer and the same keys"
            )
        considered = np.array(maps.layers)[:, None] >= self.skip_layers
        sinks = (phi >= self.tau) & considered  # [L, K]
        values = maps.values.copy()
        for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
            for layer, mask in enumerate(on_grid(sinks, columns, grid)):
                if mask.any():
                    filled = fill_cells(on_grid(maps.values[layer], columns, grid), mask, self.fill)
                    values[layer][..., columns] = filled.reshape(*filled.shape[:-2], -1)
        result = replace(maps, values=values)
        here = sinks[:, image_columns(maps)]
        hit = int(here.any(axis=0).sum())
        detail = f"{hit} of {here.shape[1]} image columns suppressed in at least one of {here.shape[0]} layers"
        removed = lost_share(image_mass(maps), image_mass(result))
        return result, StageReport(self.name, removed, detail, {"sinks_per_layer": here.sum(axis=1).tolist()})


_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)


def fill_cells(cells: FloatArray, mask: BoolArray, fill: Fill) -> FloatArray:
    """Cells [..., h, w] with the masked ones replaced.

    Args:
        cells: weights of a grid.
        mask: [h, w], true where a cell is to be replaced.
        fill: `zero`, or `neighbours` for the mean of the unmasked cells among the eight around (0 if there are none).

    Returns:
        A new array.
    """
    filled = np.where(mask, 0, cells).astype(np.float32)
    if fill == "zero":
        return filled
    ring = _RING.astype(np.float32)
    count = ndimage.convolve((~mask).astype(np.float32), ring, mode="constant")
    for row, column in np.argwhere(mask):
        top, left = max(row - 1, 0), max(column - 1, 0)
        around = np.s_[..., top : row + 2, left : column + 2]
        good = ~mask[top : row + 2, left : column + 2]
        if count[row, column] > 0:
            filled[..., row, column] = (cells[around] * good).sum(axis=(-2, -1)) / count[row, column]
    return filled


def _row_shares(maps: AttentionMaps) -> list[FloatArray]:
    rows = maps.values.mean(axis=(0, 1))  # [T, K]
    shares = []
    for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
        cells = on_grid(rows, columns, grid)
        total = cells.sum(axis=(-2, -1), keepdims=True)
        looking = total[:, 0, 0] > 0  # a row that never looks at this grid is no witness
        shares.append(cells[looking] / total[looking])
    return shares
