"""Read the words' logits at the picture's cells instead of attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage, average_layers
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport


@dataclass(frozen=True)
class LogitLens(Stage):
    """Take a word's logit at every cell as its map, [S, L, H, T, K] -> [1, 1, 1, T, K].

    TAM (ICCV 2025, arXiv 2506.23270, read from its code): the map of a token c is max(0, lm_head(h)[c]) at the last
    hidden states h of the image's positions. No attention is read.

    Notes:
        TAM explains tokens that the model generated; here they are the words of the expression. A word of several
        tokens is the mean of their logits, and the prompt's last token is its own.
    """

    name: ClassVar[str] = "logit-lens"
    spends: ClassVar[frozenset[Part]] = frozenset({"steps", "layers", "heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"steps", "layers", "heads", "words", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The logits; attention is not read."""
        return RecordSpec(reduce="heads", logits=True)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Put the logits in the place of attention.

        Raises:
            MethodError: they were not recorded.
        """
        if maps.logits is None:
            raise MethodError(
                "stage 'logit-lens' needs the words' logits at the image's cells, but the maps carry none: record them "
                "(RecordSpec.logits) from a vision-language model"
            )
        values = np.maximum(maps.logits, 0)[None, None, None].astype(np.float32)
        result = average_layers(replace(maps, text_to_text=None, logits=None), values)
        detail = f"{float((values > 0).mean()):.0%} of the words' logits at cells are above 0"
        return result, StageReport(self.name, 0.0, detail)
