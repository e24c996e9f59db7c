"""Layer choice and the mean over layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from grounding.errors import MethodError
from grounding.maps.base import Stage, average_layers, keep_layers, lost_share
from grounding.types import AttentionMaps, StageReport


@dataclass(frozen=True)
class LayerChoice(Stage):
    """Keep some decoder layers.

    Exactly one way is used: `indices`, or a stretch of the depth from `start` to `stop`. Of n layers the stretch keeps
    those from ceil(start * n) up to, not including, ceil(stop * n), so the last half is `start: 0.5`.

    Attributes:
        indices: layers counted from 0; negative ones count from the end.
        start: where the stretch begins, as a share of the depth in [0, 1].
        stop: where it ends, as a share of the depth in [0, 1].
    """

    name: ClassVar[str] = "layers-select"
    indices: tuple[int, ...] = ()
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if self.indices and (self.start, self.stop) != (0.0, 1.0):
            raise MethodError("stage 'layers-select' takes either indices or start and stop, not both")
        if not 0 <= self.start < self.stop <= 1:
            raise MethodError(f"stage 'layers-select' needs 0 <= start < stop <= 1, got {self.start} and {self.stop}")

    def resolve(self, layer_count: int) -> tuple[int, ...]:
        """The chosen layers of a model with `layer_count` layers, counted from 0, in order.

        Raises:
            MethodError: an index lies outside the model, or the stretch holds no layer.
        """
        if not self.indices:
            # 0.07 * 100 is a little more than 7 in floating point; such dust is no layer.
            first, end = (math.ceil(share * layer_count - 1e-9) for share in (self.start, self.stop))
            chosen = range(first, end)
            if not chosen:
                raise MethodError(
                    f"stage 'layers-select' finds no layer between {self.start} and {self.stop} of {layer_count} "
                    "layers: widen the stretch"
                )
            return tuple(chosen)
        outside = [i for i in self.indices if not -layer_count <= i < layer_count]
        if outside:
            raise MethodError(
                f"stage 'layers-select' names layers {outside}, but the model has {layer_count} layers: "
                f"use {-layer_count} to {layer_count - 1}"
            )
        return tuple(sorted({i % layer_count for i in self.indices}))

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Keep the chosen layers, with their head statistics and sinks.

        Raises:
            MethodError: layers are averaged already, a chosen layer was not recorded, or the model's depth is unknown.
        """
        if len(maps.layers) != maps.values.shape[0]:
            raise MethodError("stage 'layers-select' needs single layers, but they have been averaged: move it earlier")
        count = maps.layer_count
        if count is None:
            if self.indices and min(self.indices) >= 0:
                count = max(*self.indices, *maps.layers) + 1
            elif maps.layers == tuple(range(len(maps.layers))):
                count = len(maps.layers)
            else:
                raise MethodError(
                    f"stage 'layers-select' counts from the model's depth, but the maps hold layers {maps.layers} and "
                    "no layer_count: record every layer or set it"
                )
        chosen = self.resolve(count)
        missing = [layer for layer in chosen if layer not in maps.layers]
        if missing:
            raise MethodError(
                f"stage 'layers-select' wants layers {missing}, but only {maps.layers} were recorded: record them too"
            )
        result = keep_layers(maps, [maps.layers.index(layer) for layer in chosen])
        detail = f"kept layers {', '.join(map(str, chosen))}"
        removed = lost_share(float(maps.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        return result, StageReport(self.name, removed, detail, {"layers": list(chosen)})


@dataclass(frozen=True)
class LayerMean(Stage):
    """The plain mean over layers, [L, H, T, K] -> [1, H, T, K]."""

    name: ClassVar[str] = "layers-mean"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Average the layers, every one counting the same."""
        count = maps.values.shape[0]
        result = average_layers(maps, maps.values.mean(axis=0, keepdims=True))
        return result, StageReport(self.name, 0.0, f"mean of {count} layers")
