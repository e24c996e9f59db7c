"""Choose one layer per sample by its contrast with a background (LASER)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Part, average_layers, image_mass, lost_share, need_layers
from grounding.maps.contrast.background import BackgroundContrast, Behind
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, StageReport


@dataclass(frozen=True)
class LayerByContrast(BackgroundContrast):
    """Localise at the layer that the query changes most, [S, L, H, T, K] -> [S, 1, 1, T, K].

    LASER (arXiv 2602.04304, from a description of it): C[l,h] = max(0, A_query - A_noquery), a head's score is the L2
    norm of C over the image's cells, a layer's the mean of its `heads` highest scores; the map is C of the best layer.

    Attributes:
        prompt: see `BackgroundContrast`.
        background: see `BackgroundContrast`; LASER's is `no-query`.
        over: see `BackgroundContrast`.
        heads: how many heads of a layer count for its score, and make its map.

    Notes:
        LASER's number of heads was not found. That the map is the mean of the heads which made the score, that the mean
        over steps and rows is judged, and any background but `no-query` are our choices.
    """

    name: ClassVar[str] = "contrast-layer"
    spends: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    background: Behind = "no-query"
    heads: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1:
            raise MethodError(f"stage 'contrast-layer' needs heads >= 1, got {self.heads}")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The background's maps."""
        return replace(super().needs(layer_count), reduce="none")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Choose the layer and average its heads' contrast.

        Raises:
            MethodError: the layers have been averaged already, or see `BackgroundContrast`.
        """
        need_layers(maps, self.name)
        values = np.zeros_like(maps.values)
        norms = np.zeros(maps.values.shape[1:3])
        for columns, other in self.paired(maps):
            values[..., columns] = np.maximum(maps.values[..., columns] - other, 0)
            norms += np.square(values[..., columns].mean(axis=(0, 3))).sum(axis=-1)
        scores = np.sqrt(norms)  # [L, H]
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.heads]
        layer = int(np.take_along_axis(scores, best, axis=1).mean(axis=1).argmax())
        chosen = best[layer].tolist()
        joined = values[:, layer, chosen].mean(axis=1)[:, None, None]
        between = maps.text_to_text
        if between is not None:
            between = between[:, layer, chosen].mean(axis=1)[:, None, None]
        result = average_layers(replace(maps, background=None, text_to_text=None), joined)
        result = replace(result, text_to_text=between)
        removed = lost_share(image_mass(maps), image_mass(replace(maps, values=values)))
        named = ", ".join(f"{maps.layers[layer]}.{head}" for head in chosen)
        detail = f"layer {maps.layers[layer]} changes most against the map {self.behind} (layer.head {named})"
        return result, StageReport(self.name, removed, detail, {"heads": [[maps.layers[layer], h] for h in chosen]})
