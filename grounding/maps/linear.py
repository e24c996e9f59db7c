"""Read layers of linear attention, whose weights are signed, in place of those of softmax attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage, lost_share
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport


@dataclass(frozen=True)
class LinearLayers(Stage):
    """Read the weights of layers that attend by the gated delta rule, as most layers of Qwen3-Next and Qwen3.5 do.

    The rule (Gated DeltaNet, arXiv 2412.06464) is linear in the values, so a word's output is a sum of the values of
    the tokens before it with weights that follow from queries, keys, decay and beta; see
    `grounding.attention.linear_rows`. The weights are signed and do not sum to 1. Heads are value heads.
    """

    name: ClassVar[str] = "linear-layers"
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    first: ClassVar[bool] = True
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    takes_signed: ClassVar[bool] = True
    leaves_signed: ClassVar[bool | None] = True

    def needs(self, layer_count: int | None) -> RecordSpec:
        """Layers of linear attention."""
        return RecordSpec(attention="linear")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Check that the maps are of linear attention, and leave them as they are.

        Raises:
            MethodError: they are not.
        """
        if not maps.signed:
            raise MethodError(
                "stage 'linear-layers' reads layers of linear attention, but the maps hold weights of softmax "
                "attention: record them again (Method.record_spec() names what a method needs)"
            )
        below = float((maps.values < 0).mean())
        return maps, StageReport(self.name, 0.0, f"layers of linear attention, {below:.0%} of the weights below 0")


@dataclass(frozen=True)
class Unsigned(Stage):
    """Make signed weights >= 0, so that stages which read them as shares can follow.

    Attributes:
        how: `absolute`: how strongly a cell's value reaches the word, whatever the sign; `positive`: negative weights
            become 0.

    Notes:
        The stage and its default are our choice. It is applied to single heads, because the weights of different heads
        belong to different values and would cancel in a mean.
    """

    name: ClassVar[str] = "unsigned"
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    takes_signed: ClassVar[bool] = True
    leaves_signed: ClassVar[bool | None] = False
    how: Literal["absolute", "positive"] = "absolute"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Change the sign of negative weights, or drop them; maps without a sign stay as they are."""
        size = np.abs(maps.values)
        values = size if self.how == "absolute" else np.maximum(maps.values, 0)
        removed = lost_share(float(size.sum(dtype=float)), float(values.sum(dtype=float)))
        detail = "absolute weights" if self.how == "absolute" else "weights below 0 set to 0"
        return replace(maps, values=values, signed=False), StageReport(self.name, removed, detail)
