"""Select decoder layers, and average over layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grounding.errors import MethodError
from grounding.layers import LayerRange
from grounding.maps.base import Part, Stage, average_layers, keep_layers, lost_share, need_layers, skipped_note
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, StageReport


@dataclass(frozen=True)
class LayerChoice(Stage, LayerRange):
    """Keep some decoder layers, by number or by share of the depth; `LayerRange` documents the fields."""

    name: ClassVar[str] = "layers-select"
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "background"})
    takes_signed: ClassVar[bool] = True

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The chosen layers, where the model's depth is known."""
        return RecordSpec(layers=None if layer_count is None else self.chosen(layer_count))

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Keep the chosen layers, with their head statistics and sinks.

        Raises:
            MethodError: layers are averaged already, a chosen layer was not recorded, no chosen layer has attention
                weights, or the model's depth is unknown.
        """
        need_layers(maps, self.name)
        everything = self.chosen(self._depth(maps))
        chosen = [layer for layer in everything if layer not in maps.skipped_layers]
        without = [layer for layer in everything if layer in maps.skipped_layers]
        weights = "weights of linear attention" if maps.signed else "attention weights"
        if not chosen:
            raise MethodError(f"stage 'layers-select' wants layers {without}, which have no {weights}")
        missing = [layer for layer in chosen if layer not in maps.layers]
        if missing:
            raise MethodError(
                f"stage 'layers-select' wants layers {missing}, but only {maps.layers} were recorded: record them too"
            )
        result = keep_layers(maps, [maps.layers.index(layer) for layer in chosen])
        detail = f"kept layers {', '.join(map(str, chosen))}"
        if without:
            detail += f"; {', '.join(map(str, without))} have no {weights}"
        removed = lost_share(float(maps.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        return result, StageReport(self.name, removed, detail, {"layers": chosen, "without weights": without})

    def _depth(self, maps: AttentionMaps) -> int:
        if maps.layer_count is not None:
            return maps.layer_count
        if self.indices and min(self.indices) >= 0:
            return max(*self.indices, *maps.layers) + 1
        if maps.layers == tuple(range(len(maps.layers))):
            return len(maps.layers)
        raise MethodError(
            f"stage 'layers-select' counts from the model's depth, but the maps hold layers {maps.layers} and no "
            "layer_count: record every layer or set it"
        )


@dataclass(frozen=True)
class LayerMean(Stage):
    """Average the layers with equal weights, [S, L, H, T, K] -> [S, 1, H, T, K]."""

    name: ClassVar[str] = "layers-mean"
    spends: ClassVar[frozenset[Part]] = frozenset({"layers"})
    takes_signed: ClassVar[bool] = True

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Average the layers; layers that are averaged already stay as they are."""
        count = maps.values.shape[1]
        result = average_layers(maps, maps.values.mean(axis=1, keepdims=True))
        data = {"without weights": list(maps.skipped_layers)} if maps.skipped_layers else {}
        return result, StageReport(self.name, 0.0, f"mean of {count} layers{skipped_note(maps)}", data)
