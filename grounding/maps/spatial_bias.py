"""Weight the cells by the side of the picture that the expression names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.base import Part, Stage, grid_columns, lost_share
from grounding.text.sides import Side, sides
from grounding.types import AttentionMaps, FloatArray, StageReport, WordKind


@dataclass(frozen=True)
class SpatialBias(Stage):
    """Multiply the maps by a linear ramp towards each side that the expression names.

    A ramp is 1 at the named side of the picture and `floor` at the other; `middle` falls to both sides. Beside a
    horizontal side `middle` is vertical ("middle left"), else horizontal. Several ramps are multiplied. An expression
    without a side leaves the maps as they are.

    Attributes:
        floor: the ramp's smallest value, in [0, 1].
        vertical: use top and bottom as well as left, right and middle.

    Notes:
        RefAM (arXiv 2509.22650) names a spatial bias in its ablation and does not give its form; this one is our
        choice, after the ramps over the full width of earlier zero-shot methods.
    """

    name: ClassVar[str] = "spatial-bias"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    before: ClassVar[frozenset[str]] = frozenset({"stop-words", "head-noun"})
    floor: float = 0.2
    vertical: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise MethodError(f"stage 'spatial-bias' needs a floor in [0, 1], got {self.floor:g}")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Weight the cells of every grid."""
        own = [word for word in maps.words if word.kind not in (WordKind.SPECIAL, WordKind.MAGNET)]
        found = sides(sorted(own, key=lambda word: word.span))
        used = tuple(side for side in found if self.vertical or side not in ("top", "bottom"))
        values = maps.values
        if used:
            values = values.copy()
            for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
                values[..., columns] *= ramp(used, grid, maps.image_size, self.floor).ravel()
        removed = lost_share(float(maps.values.sum(dtype=float)), float(values.sum(dtype=float)))
        detail = f"weighted towards {' and '.join(used)}" if used else "the expression names no side"
        return replace(maps, values=values), StageReport(self.name, removed, detail, {"sides": list(used)})


def ramp(named: tuple[Side, ...], grid: ImageGrid, size: tuple[int, int], floor: float) -> FloatArray:
    """The factor [h, w] of a grid's cells.

    Args:
        named: at least one side.
        grid: the grid.
        size: (width, height) of the original image in pixels.
        floor: the smallest factor of one ramp.
    """
    (height, width), (x0, y0, x1, y1) = grid.shape, grid.box_xyxy
    x = (x0 + (np.arange(width) + 0.5) / width * (x1 - x0)) / size[0]
    y = (y0 + (np.arange(height) + 0.5) / height * (y1 - y0)) / size[1]
    weight = np.ones(grid.shape)
    for side in named:
        across = side in ("left", "right") or (side == "middle" and not {"left", "right"} & {*named})
        at = x[None, :] if across else y[:, None]
        share = {"left": 1 - at, "right": at, "top": 1 - at, "bottom": at, "middle": 1 - np.abs(2 * at - 1)}[side]
        weight = weight * (floor + (1 - floor) * share)
    return weight.astype(np.float32)
