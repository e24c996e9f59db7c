"""What every stage shares: its shape, and where the image's cells lie among the recorded columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from grounding.types import AttentionMaps, FloatArray, ImageGrid, IntArray, StageReport

N = TypeVar("N", bound=np.generic)

LAST = "<last>"
"""Text of the special word that stands for the last token of the prompt."""


@dataclass(frozen=True)
class Stage(ABC):
    """One step of a method: attention maps in, attention maps and a report out.

    A stage is a frozen dataclass whose fields are the method's numbers, so a method file spells out exactly what ran.
    It keeps the four axes [L, H, T, K]; an axis that it averages stays with length 1. A generic-prompt background that
    travels with the maps goes through the same stage, until a contrast stage consumes it.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Run the stage on one set of maps, whose background, if any, is left as it is."""

    def __call__(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Run the stage on the maps and on their background.

        Args:
            maps: values [L, H, T, K].

        Returns:
            The new maps, and what was removed from the maps themselves (the background is not reported).

        Raises:
            MethodError: the maps lack what the stage needs.
        """
        result, report = self.apply(maps)
        if maps.background is not None:
            result = replace(result, background=self.apply(maps.background)[0])
        return result, report


def grid_columns(maps: AttentionMaps) -> tuple[IntArray, ...]:
    """Per grid the (h*w,) column indices of its cells, row by row from the top left."""
    order = np.argsort(maps.keys, kind="stable")
    ranked = maps.keys[order]
    return tuple(order[np.searchsorted(ranked, grid.positions)] for grid in maps.grids)


def image_columns(maps: AttentionMaps) -> IntArray:
    """The sorted column indices of all image cells of all grids."""
    found = grid_columns(maps)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def on_grid(values: npt.NDArray[N], columns: IntArray, grid: ImageGrid) -> npt.NDArray[N]:
    """Values [..., K] of one grid's cells as [..., h, w]."""
    return values[..., columns].reshape(*values.shape[:-1], *grid.shape)


def image_mass(maps: AttentionMaps) -> float:
    """Sum of all weights on image cells."""
    return float(maps.values[..., image_columns(maps)].sum(dtype=np.float64))


def lost_share(before: float, after: float) -> float:
    """Share of a mass that is gone, in [0, 1]; 0 where there was none."""
    return float(np.clip(1 - after / before, 0, 1)) if before > 0 else 0.0


def keep_layers(maps: AttentionMaps, indices: Sequence[int]) -> AttentionMaps:
    """The maps with only the given entries of the layer axis, statistics and sinks included."""
    at = list(indices)
    return replace(
        maps,
        values=maps.values[at],
        layers=tuple(maps.layers[i] for i in at),
        head_statistics={name: table[at] for name, table in maps.head_statistics.items()},
        residual_sinks=None if maps.residual_sinks is None else maps.residual_sinks[at],
    )


def average_layers(maps: AttentionMaps, values: FloatArray) -> AttentionMaps:
    """The maps with `values` [1, H, T, K] once the layer axis has been spent; what was told per layer is dropped."""
    return replace(maps, values=values, layers=(), head_statistics={}, residual_sinks=None)
