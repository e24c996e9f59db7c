"""Suppress attention sinks: image columns that receive attention whatever the words are.

Both stages fill a suppressed cell in one of two ways: with 0 (`zero`), or with the mean of those of its eight
neighbours that are not suppressed themselves (`neighbours`), so that a sink on the object leaves no hole in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from scipy import ndimage

from grounding.attention.sinks import TAU, SinkRule
from grounding.errors import MethodError
from grounding.maps.base import (
    WORD_TO_IMAGE,
    Part,
    Stage,
    grid_columns,
    image_columns,
    image_mass,
    lost_share,
    need_layers,
    on_grid,
)  # fmt: skip
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, BoolArray, Direction, FloatArray, StageReport

Fill = Literal["zero", "neighbours"]


@dataclass(frozen=True)
class ColumnOutliers(Stage):
    """Suppress image columns that are outliers in every row alike, without reading hidden states.

    With p[t,c] the share of row t's image attention on cell c (mean over steps, layers and heads), cell c of a grid is
    a sink when all three hold:

    1. its mean over rows is an outlier: (mean - median) / scale > `factor`, where scale is the median absolute
       deviation times 1.4826, and at least a tenth of the mean cell, so that a nearly empty map has no tiny scale;
    2. the rows agree: standard deviation over rows / mean <= `variation`. Words of the object attend to the object more
       than other words do; a sink receives attention from all of them;
    3. it is isolated: larger than `isolation` times the largest of its eight neighbours. An object rarely covers one
       cell.

    Rows are the words and the rows of the background, if there is one. Place this stage before the one that drops stop
    words: their rows are part of the evidence. With fewer than two rows nothing is suppressed. The background loses the
    same cells.

    Attributes:
        factor: robust z-score above which a column is an outlier.
        variation: largest coefficient of variation over the rows.
        isolation: least ratio to the largest neighbour; 0 turns this test off.
        fill: what a suppressed cell becomes.

    Notes:
        The test and its three thresholds are our choice; no paper defines it.
    """

    name: ClassVar[str] = "sinks-columns"
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    factor: float = 5.0
    variation: float = 0.5
    isolation: float = 2.0
    fill: Fill = "neighbours"

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.variation < 0 or self.isolation < 0:
            raise MethodError("stage 'sinks-columns' needs factor > 0, variation >= 0 and isolation >= 0")

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Find the sinks on the rows of maps and background together, and suppress them in both."""
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
        parts = [_row_shares(maps)]
        other = maps.background
        if other is not None and [g.shape for g in other.grids] == [g.shape for g in maps.grids]:
            parts.append(_row_shares(other))
        found = []
        for index, grid in enumerate(maps.grids):
            rows = np.concatenate([shares[index] for shares in parts])  # [R, h, w]
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
    """Suppress image columns whose residual is that of a sink (Kang et al., ICLR 2025, "See What You Are Told").

    phi is the largest RMS-normalised entry of a layer's input in the sink dimensions; `SinkRule` decides. Each layer
    loses its own sinks. The paper's code tests phi > tau and skips layers 0 and 1.

    Attributes:
        tau: a key with phi >= tau is a sink; 20 in the paper.
        skip_layers: how many of the model's first layers are left alone.
        fill: what a suppressed cell becomes.

    Notes:
        The fill is our choice: the paper moves attention to other tokens inside the model, which a map does not need.
    """

    name: ClassVar[str] = "sinks-residual"
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    tau: float = TAU
    skip_layers: int = 2
    fill: Fill = "neighbours"

    def __post_init__(self) -> None:
        if self.tau <= 0 or self.skip_layers < 0:
            raise MethodError("stage 'sinks-residual' needs tau > 0 and skip_layers >= 0")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """phi of every key."""
        return RecordSpec(residual_sinks=True)

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
        if phi.shape != (maps.values.shape[1], maps.values.shape[-1]):
            raise MethodError(
                f"stage 'sinks-residual' needs phi of shape [layers, keys] = [{maps.values.shape[1]}, "
                f"{maps.values.shape[-1]}], got {list(phi.shape)}: record every layer and the same keys"
            )
        need_layers(maps, self.name)
        rule = SinkRule(self.tau, self.skip_layers)
        sinks = np.stack([rule.sinks(row, layer) for row, layer in zip(phi, maps.layers, strict=True)])  # [L, K]
        values = maps.values.copy()
        for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
            for layer, mask in enumerate(on_grid(sinks, columns, grid)):
                if mask.any():
                    filled = fill_cells(on_grid(maps.values[:, layer], columns, grid), mask, self.fill)
                    values[:, layer][..., columns] = filled.reshape(*filled.shape[:-2], -1)
        result = replace(maps, values=values)
        here = sinks[:, image_columns(maps)]
        hit = int(here.any(axis=0).sum())
        detail = f"{hit} of {here.shape[1]} image columns suppressed in at least one of {here.shape[0]} layers"
        removed = lost_share(image_mass(maps), image_mass(result))
        return result, StageReport(self.name, removed, detail, {"sinks_per_layer": here.sum(axis=1).tolist()})


_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)


def fill_cells(cells: FloatArray, mask: BoolArray, fill: Fill) -> FloatArray:
    """Replace the masked cells.

    Args:
        cells: [..., h, w] weights of a grid.
        mask: [h, w], true where a cell is to be replaced.
        fill: `zero`, or `neighbours` for the mean of the unmasked cells among the eight around (0 if there are none).

    Returns:
        A new array [..., h, w].
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
    """Per grid the rows [R, h, w] that attend to it, each divided by its sum over the grid."""
    rows = maps.values.mean(axis=(0, 1, 2))  # [T, K]
    shares = []
    for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
        cells = on_grid(rows, columns, grid)
        total = cells.sum(axis=(-2, -1), keepdims=True)
        looking = total[:, 0, 0] > 0  # a row without attention on this grid says nothing about it
        shares.append(cells[looking] / total[looking])
    return shares
