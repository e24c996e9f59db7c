"""Weigh the heads of a layer and average them into one map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage, image_mass, lost_share
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, FloatArray, StageReport


@dataclass(frozen=True)
class HeadMean(Stage):
    """Average the heads with equal weights, [S, L, H, T, K] -> [S, L, 1, T, K]."""

    name: ClassVar[str] = "heads-mean"
    spends: ClassVar[frozenset[Part]] = frozenset({"heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"heads", "background"})
    takes_signed: ClassVar[bool] = True

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The mean over heads, so that it can be taken while the model runs."""
        return RecordSpec(reduce="heads")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Average the heads."""
        heads = maps.values.shape[2]
        values = maps.values.mean(axis=2, keepdims=True)
        # A single head here is the mean that was taken while the model ran.
        detail = f"mean of {heads} heads" if heads > 1 else "mean of all heads"
        between = None if maps.text_to_text is None else maps.text_to_text.mean(axis=2, keepdims=True)
        result = replace(maps, values=values, head_statistics={}, text_to_text=between)
        return result, StageReport(self.name, 0.0, detail)


@dataclass(frozen=True)
class HeadMeanMax(Stage):
    """Weigh heads by VL-SAM's mean-max weight (Lin, Wang, Tang, NeurIPS 2024, section on attention generation).

    W[l,h] is the mean over all queries of the row's largest weight over *all* keys, and S'[l] = (1/H) sum_h W[l,h]
    S[l,h]: a mean, neither a sum nor divided by the sum of W. Heads with one very large entry get large weights,
    attention-sink heads among them; combine it with a sink stage.
    """

    name: ClassVar[str] = "heads-mean-max"
    spends: ClassVar[frozenset[Part]] = frozenset({"heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The statistic `max_all`."""
        return RecordSpec(head_statistics=("max_all",))

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Weigh the heads by their mean maximum over all keys; needs `head_statistics["max_all"]`."""
        return _weigh(maps, head_statistic(maps, "max_all", self.name), self.name)


@dataclass(frozen=True)
class HeadMaxImage(Stage):
    """Weigh heads by their mean maximum over *image* keys (DecAF, arXiv 2510.19592, read from its code).

    w[l,h] is the mean over all queries of the row's largest weight over image keys, divided by the largest w of its
    layer; the layer's map is the mean over heads of w S.
    """

    name: ClassVar[str] = "heads-max-image"
    spends: ClassVar[frozenset[Part]] = frozenset({"heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The statistic `max_image`."""
        return RecordSpec(head_statistics=("max_image",))

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
    if table.shape != maps.values.shape[1:3]:
        raise MethodError(
            f"stage {stage!r} weighs {table.shape[0]}x{table.shape[1]} layers and heads, but the maps hold "
            f"{maps.values.shape[1]}x{maps.values.shape[2]}: record every head, without reduction"
        )
    return table


def _weigh(maps: AttentionMaps, weights: FloatArray, stage: str) -> tuple[AttentionMaps, StageReport]:
    heads = maps.values.shape[2]
    steps = [np.einsum("lh,lhtk->ltk", weights, step, optimize=True) for step in maps.values]
    values = np.stack(steps)[:, :, None] / np.float32(heads)
    result = replace(maps, values=values.astype(np.float32), head_statistics={}, text_to_text=None)
    removed = lost_share(image_mass(maps) / heads, image_mass(result))
    strong = int((weights >= 0.5 * weights.max(axis=1, keepdims=True)).sum())
    detail = f"{strong} of {weights.size} heads weigh at least half as much as their layer's strongest"
    return result, StageReport(stage, removed, detail, {"mean_weight": weights.mean(axis=1).round(6).tolist()})
