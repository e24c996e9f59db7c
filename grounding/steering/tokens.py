"""Choose the image tokens of a modulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grounding.errors import MethodError
from grounding.steering.base import GenerationContext
from grounding.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class TokenChoice:
    """Choose image keys per image by attention inside the vision tower (PAINT, arXiv 2501.12206).

    Of an image's N cells:

    * local: the floor(`local` N) cells with most attention from the class token at layer `layer`;
    * spatial: the floor(`spatial` N) cells that receive most attention from all other tokens at `layer`;
    * summary: the cells whose attention from the class token at `summary_layer` exceeds Q3 + `whisker` (Q3 - Q1).

    Attributes:
        choice: `all`, every position that holds an image token; `local`, the local and spatial sets; `summary`.
        local: share of the cells, in [0, 1].
        spatial: share of the cells, in [0, 1]; 0 is the paper's main setting.
        layer: layer of the vision tower; negative values count from the end.
        summary_layer: layer of the vision tower; negative values count from the end.
        whisker: distance of outliers from the third quartile, in interquartile ranges, >= 0.
        winner: set that keeps a cell which is both local and summary; `both` keeps it in both sets.

    Raises:
        MethodError: a value is out of range.

    Notes:
        The paper's released code ranks the row sums of the attention matrix for the spatial set, which are all 1, and
        counts the class token as a cell; received attention is used here instead. For towers without a class token,
        received attention replaces the class token's in all sets. Towers without attention are replaced by the language
        model (see `grounding.steering.vision`).
    """

    choice: Literal["all", "local", "summary"] = "all"
    local: float = 0.25
    spatial: float = 0.0
    layer: int = 0
    summary_layer: int = -2
    whisker: float = 1.5
    winner: Literal["summary", "local", "both"] = "summary"

    def __post_init__(self) -> None:
        if not (0 <= self.local <= 1 and 0 <= self.spatial <= 1 and self.whisker >= 0):
            raise MethodError("tokens need local and spatial in [0, 1] and a whisker of at least 0")

    def select(self, context: GenerationContext) -> tuple[IntArray, ...]:
        """Choose the image keys of a batch.

        Returns:
            Per element the chosen positions in the padded prompt, ascending; of a model that reads pictures by
            cross-attention the chosen keys of it.

        Raises:
            MethodError: the tower's attention cannot be read, or the image tokens of the model are no cells.
        """
        if self.choice == "all":
            crosses = context.vlm.map_attention == "cross"
            return tuple(layout.keys if crosses else layout.image for layout in context.prepared.layouts)
        if not context.vlm.cells_are_tokens:
            raise MethodError(
                f"tokens: {self.choice} chooses image tokens by where they lie in the picture, and those of "
                f"{context.vlm.name} stand for no part of it: use tokens: all"
            )
        from grounding.steering.vision import cell_attention

        early = cell_attention(context, self.layer)
        late = cell_attention(context, self.summary_layer)
        found = []
        for layout, first, last in zip(context.prepared.layouts, early, late, strict=True):
            local = largest(first.informative, self.local) | largest(first.received, self.spatial)
            summary = upper_outliers(last.informative, self.whisker)
            if self.winner == "summary":
                local = local & ~summary
            elif self.winner == "local":
                summary = summary & ~local
            cells = np.concatenate([grid.positions for grid in layout.grids])
            found.append(np.sort(cells[local if self.choice == "local" else summary]))
        return tuple(found)


def largest(scores: FloatArray, share: float) -> BoolArray:
    """Return [N] bool, true for the floor(share N) largest of [N] scores."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[: int(share * len(scores))]] = True
    return chosen


def upper_outliers(scores: FloatArray, whisker: float) -> BoolArray:
    """Return [N] bool, true for scores above the third quartile by more than `whisker` interquartile ranges."""
    low, high = np.percentile(scores, (25, 75))
    return np.asarray(scores > high + whisker * (high - low))
