"""Smooth the maps on the cells of each grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy import ndimage

from grounding.errors import MethodError
from grounding.maps.base import Part, Stage, grid_columns, on_grid
from grounding.types import AttentionMaps, StageReport


@dataclass(frozen=True)
class Smooth(Stage):
    """Blur each map with a Gaussian over neighbouring cells.

    DecAF (arXiv 2510.19592, read from its code) smooths with sigma 1 before its contrast.

    Attributes:
        sigma: standard deviation in cells, > 0.

    Notes:
        The mirrored border and the end of the kernel at three sigma are our choices. It may come after a contrast.
    """

    name: ClassVar[str] = "smooth"
    requires: ClassVar[frozenset[Part]] = frozenset()
    takes_signed: ClassVar[bool] = True
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise MethodError(f"stage 'smooth' needs sigma > 0, got {self.sigma}")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Blur every step, layer, head and row separately."""
        values = maps.values.copy()
        for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
            blurred = ndimage.gaussian_filter(
                on_grid(maps.values, columns, grid), (0, 0, 0, 0, self.sigma, self.sigma), mode="reflect", truncate=3.0
            )
            if not maps.signed:
                blurred = np.maximum(blurred, 0)
            values[..., columns] = blurred.reshape(*blurred.shape[:-2], -1)
        return replace(maps, values=values), StageReport(self.name, 0.0, f"blurred with sigma {self.sigma:g} cells")


@dataclass(frozen=True)
class SmoothRanks(Stage):
    """Average each 3 x 3 neighbourhood by rank, with a Gaussian around its median (TAM, ICCV 2025, read from its code).

    The nine values are sorted and weighted by exp(-r^2 / (2 s^2)), r the distance from the middle rank and s the
    neighbourhood's standard deviation divided by its mean: nearly a median where the values agree, nearly a mean where
    they do not, so that single hot cells fall.

    Notes:
        The mirrored border is our choice.
    """

    name: ClassVar[str] = "smooth-ranks"
    requires: ClassVar[frozenset[Part]] = frozenset()

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Smooth every step, layer, head and row separately."""
        values = maps.values.copy()
        for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
            cells = on_grid(maps.values, columns, grid)
            padded = np.pad(cells, (*((0, 0),) * 4, (1, 1), (1, 1)), mode="symmetric")
            windows = np.sort(
                np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (-2, -1)).reshape(*cells.shape, 9)
            )
            mean = windows.mean(axis=-1, keepdims=True)
            spread = np.divide(windows.std(axis=-1, keepdims=True), mean, out=np.zeros_like(mean), where=mean > 0)
            weights = np.exp(-0.5 * (np.arange(-4, 5) / np.maximum(spread, 1e-3)) ** 2)
            smooth = (windows * weights).sum(axis=-1) / weights.sum(axis=-1)
            values[..., columns] = smooth.reshape(*smooth.shape[:-2], -1)
        return replace(maps, values=values), StageReport(self.name, 0.0, "averaged by rank over 3 x 3 cells")
