"""Contrast each word with the other words of the text (TAM)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.maps.base import WORD_TO_IMAGE, Part, Stage, image_columns, image_mass, lost_share
from grounding.maps.contrast.background import least_squares_scale
from grounding.types import AttentionMaps, Direction, StageReport


@dataclass(frozen=True)
class OtherWords(Stage):
    """Take off each word's row what the other words of the text explain, max(0, A_t - s * B_t).

    TAM (ICCV 2025, arXiv 2506.23270, read from its code): B_t is the mean of the maps of the earlier words of another
    text, weighted by their own activation, and s the least-squares factor of A_t on B_t. TAM's maps are logits of image
    positions (stage `logit-lens`); attention goes through the same steps.

    Attributes:
        which: `earlier` words as in TAM, which reads the text as it is generated, or `other` words on both sides.

    Notes:
        The activation of a word is taken as its row's sum over the image's cells. The prompt's last token counts as
        the last word. All rows are compared as recorded, before any of them is changed; the first word has no earlier
        one and stays.
    """

    name: ClassVar[str] = "contrast-words"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    which: Literal["earlier", "other"] = "earlier"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Take the other words' rows off."""
        columns = image_columns(maps)
        cells = maps.values[..., columns]  # [S, L, H, T, n]
        weights = cells.sum(axis=-1, keepdims=True)
        left = cells.copy()
        texts = [word.text.lower() for word in maps.words]
        for row, text in enumerate(texts):
            rivals = [i for i, other in enumerate(texts) if other != text and (self.which == "other" or i < row)]
            total = weights[:, :, :, rivals].sum(axis=3)
            mixed = (weights[:, :, :, rivals] * cells[:, :, :, rivals]).sum(axis=3)
            behind = np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)
            scale = least_squares_scale([cells[:, :, :, row]], [behind])
            left[:, :, :, row] = np.maximum(cells[:, :, :, row] - scale * behind, 0)
        values = maps.values.copy()
        values[..., columns] = left
        result = replace(maps, values=values)
        removed = lost_share(image_mass(maps), image_mass(result))
        detail = f"{removed:.0%} of the words' image attention is also there for {self.which} words"
        return result, StageReport(self.name, removed, detail)
