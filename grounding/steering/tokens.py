"""Which image tokens a modulation is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grounding.errors import MethodError
from grounding.steering.base import GenerationContext
from grounding.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class TokenChoice:
    """A choice of image keys, per picture, by attention inside the vision tower (dual-stream, arXiv 2501.12206).

    Three sets are made of a picture's N cells. *Local*: the floor(local N) cells that the class token attends to most
    at layer `layer`; for towers without one, that receive most there. *Spatial*: the floor(spatial N) cells that
    receive most attention at `layer`. *Summary*: the upper outliers, above Q3 + `whisker` (Q3 - Q1), of the class
    token's attention at `summary_layer` (of what cells receive, without a class token, which is ours).

    The paper's released code ranks rows of the attention matrix for the spatial set, all of which sum to 1, and counts
    the class token as a cell, so it chooses by rounding noise; what cells receive is meant here. Towers without
    attention are replaced by the language model; see `vision`.

    Attributes:
        choice: `all`, every position that holds an image token; `local`, local and spatial; `summary`.
        local: share of the cells.
        spatial: share of the cells; 0 is none, the paper's main setting.
        layer: of the vision tower; negative counts from its end.
        summary_layer: of the vision tower.
        whisker: how far from the quartiles an outlier begins.
        winner: the set that keeps a cell both `local` and `summary` claim; `both` leaves it in both.
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
        """Per element the chosen positions in the padded prompt, ascending.

        Raises:
            MethodError: the tower's attention cannot be read.
        """
        if self.choice == "all":
            return tuple(layout.image for layout in context.prepared.layouts)
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
    """[N] bool, the floor(share N) largest scores."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[: int(share * len(scores))]] = True
    return chosen


def upper_outliers(scores: FloatArray, whisker: float) -> BoolArray:
    """[N] bool, scores above the third quartile by more than `whisker` times the quartiles' distance."""
    low, high = np.percentile(scores, (25, 75))
    return np.asarray(scores > high + whisker * (high - low))
