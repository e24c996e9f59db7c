"""Propagate a map along the likeness of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage
from grounding.maps.refine.affinity import cell_likeness
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport


@dataclass(frozen=True)
class Propagate(Stage):
    """Spread each map over cells that look alike, y <- (1 - share) a + share P y, `steps` times.

    P is the cells' likeness, cosines of the vision tower's features below 0 cut off, to the power of `power`, each row
    divided by its sum. A random walk that starts at the map a and returns to it (Zhou et al., Learning with Local and
    Global Consistency, NIPS 2003; on affinities of features AffinityNet, CVPR 2018, which raises them to a power).

    Attributes:
        share: how much of the walk goes on, in (0, 1).
        power: of the likeness, > 0; larger keeps the walk among cells that are nearly the same.
        steps: of the walk, >= 1.
        centre: take the cells' mean feature off first.

    Notes:
        Frozen features of the model's own vision tower in place of trained affinities are our choice, and so are
        the numbers. A contrast comes before it.
    """

    name: ClassVar[str] = "refine-propagate"
    spends: ClassVar[frozenset[Part]] = frozenset({"background"})
    requires: ClassVar[frozenset[Part]] = frozenset()
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    share: float = 0.5
    power: float = 4.0
    steps: int = 4
    centre: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.power <= 0 or self.steps < 1:
            raise MethodError("stage 'refine-propagate' needs share in (0, 1), power > 0 and steps >= 1")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The features."""
        return RecordSpec(features=True)

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Refine the maps, and drop a background that no contrast has used."""
        return self.apply(maps)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Spread the maps.

        Raises:
            MethodError: the features were not recorded.
        """
        columns, cosines = cell_likeness(maps, self.name, centre=self.centre)
        likeness = np.maximum(cosines, 0) ** self.power
        total = likeness.sum(axis=1, keepdims=True)
        walk = np.divide(likeness, total, out=np.eye(len(likeness)), where=total > 0)
        start = maps.values[..., columns].astype(np.float64)
        spread = start
        for _ in range(self.steps):
            spread = (1 - self.share) * start + self.share * spread @ walk.T
        values = maps.values.copy()
        values[..., columns] = spread
        moved = 0.5 * float(np.abs(spread - start).sum()) / max(float(start.sum()), 1e-12)
        detail = f"{min(moved, 1):.0%} of the image attention moved to cells that look alike"
        return replace(maps, values=values, background=None), StageReport(self.name, 0.0, detail)
