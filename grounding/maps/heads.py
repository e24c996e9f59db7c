"""Head weighting: one map out of a layer's heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Stage, image_mass, lost_share
from grounding.types import AttentionMaps, FloatArray, StageReport


@dataclass(frozen=True)
class HeadMean(Stage):
    """The plain mean over heads, [L, H, T, K] -> [L, 1, T, K]."""

    name: ClassVar[str] = "heads-mean"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Average the heads, every one counting the same."""
        heads = maps.values.shape[1]
        values = maps.values.mean(axis=1, keepdims=True)
        # A single head here is the mean that was taken while the model ran.
        detail = f"mean of {heads} heads" if heads > 1 else "mean of all heads"
        return replace(maps, values=values, head_statistics={}), StageReport(self.name, 0.0, detail)


@dataclass(frozen=True)
class HeadMeanMax(Stage):
    """VL-SAM's mean-max weight (Lin, Wang, Tang, NeurIPS 2024, section on attention generation).

    W[l,h] is the mean over all queries of the row's largest weight over *all* keys, and S'[l] = (1/H) sum_h W[l,h]
    S[l,h]: a mean, neither a sum nor divided by the sum of W. Heads with one very large entry are favoured, sink
    heads among them, so a sink stage belongs into the method too.
    """

    name: ClassVar[str] = "heads-mean-max"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Weigh the heads by their mean maximum over all keys; needs `head_statistics["max_all"]`."""
        return _weigh(maps, head_statistic(maps, "max_all", self.name), self.name)


@dataclass(frozen=True)
class HeadMaxImage(Stage):
    """DecAF's weight (arXiv 2510.19592, read from its code): the mean maximum over *visual* keys, strongest head 1.

    w[l,h] is the mean over all queries of the row's largest weight over image keys, divided by the largest w of its
    layer; the layer's map is the mean over heads of w S.
    """

    name: ClassVar[str] = "heads-max-image"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Weigh the heads by their mean maximum over image keys; needs `head_statistics["max_image"]`."""
        weights = head_statistic(maps, "max_image", self.name)
        strongest = weights.max(axis=1, keepdims=True)
        relative = np.divide(weights, strongest, out=np.zeros_like(weights), where=strongest > 0)
        return _weigh(maps, relative, self.name)


def head_statistic(maps: AttentionMaps, statistic: str, stage: str) -> FloatArray:
    """The [L, H] table of a head statistic, checked against the maps.

    Raises:
        MethodError: it was not recorded, or heads or layers have been averaged since.
    """
    table = maps.head_statistics.get(statistic)
    if table is None:
        known = ", ".join(sorted(maps.head_statistics)) or "none"
        raise MethodError(
            f"stage {stage!r} needs the head statistic {statistic!r}, but the maps carry {known}: "
            "record it (Method.record_spec() names what a method needs)"
        )
    if table.shape != maps.values.shape[:2]:
        raise MethodError(
            f"stage {stage!r} weighs {table.shape[0]}x{table.shape[1]} layers and heads, but the maps hold "
            f"{maps.values.shape[0]}x{maps.values.shape[1]}: record every head, without reduction"
        )
    return table


def _weigh(maps: AttentionMaps, weights: FloatArray, stage: str) -> tuple[AttentionMaps, StageReport]:
    heads = maps.values.shape[1]
    values = np.einsum("lh,lhtk->ltk", weights, maps.values, optimize=True)[:, None] / np.float32(heads)
    result = replace(maps, values=values.astype(np.float32), head_statistics={})
    removed = lost_share(image_mass(maps) / heads, image_mass(result))
    strong = int((weights >= 0.5 * weights.max(axis=1, keepdims=True)).sum())
    detail = f"{strong} of {weights.size} heads weigh at least half as much as their layer's strongest"
    return result, StageReport(stage, removed, detail, {"mean_weight": weights.mean(axis=1).round(6).tolist()})
