"""Find text tokens that every cell and every word attends to alike, and take them out of the map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.layers import share_of
from grounding.maps.base import Part, Stage, image_columns, keep_words, lost_share
from grounding.types import AttentionMaps, BoolArray, Direction, FloatArray, RecordSpec, StageReport, WordKind


@dataclass(frozen=True)
class TextSinks(Stage):
    """Drop the global attention sinks among text tokens (RefAM, arXiv 2509.22650).

    A sink draws much attention from all cells and all words alike, and says nothing about either. A word is one when
    all three hold, per token of it, on the mean over steps, heads and the deepest layers:

    1. its mean weight over cells is at least `share` times that of equal weights, 1 / number of text tokens;
    2. its weight hardly changes over cells: standard deviation / mean <= `variation`;
    3. other words attend to it: its mean weight from other words is at least `between` times the median word's.

    A content word that is a sink is kept where no content word would be left. Place the stage before those that drop
    words, because all tokens are the evidence.

    Attributes:
        share: least ratio to equal weights.
        variation: largest coefficient of variation over cells.
        between: least ratio to the median of weights from other words; 0 turns this test off, as cross attention needs.
        start: where the deepest layers begin, as a share of the depth. Layers that do not reach the stage do not count;
            where none of the deepest does, all that are there count.
        handling: `drop`: leave the sinks out. `renormalise`: leave them out of every cell's softmax too, which is what
            masking their logits in the recorded layers gives with all states held.

    Notes:
        RefAM defines sinks in words only; it gives no rule and no thresholds. These separate the tokens of its figures
        and are our choice. Its page shows sinks left out of the sum.
    """

    name: ClassVar[str] = "text-sinks"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    before: ClassVar[frozenset[str]] = frozenset({"magnets", "stop-words", "head-noun"})
    directions: ClassVar[frozenset[Direction]] = frozenset({"image-to-word"})
    share: float = 1.7
    variation: float = 0.20
    between: float = 3.0
    start: float = 0.67
    handling: Literal["drop", "renormalise"] = "drop"

    def __post_init__(self) -> None:
        if self.share <= 0 or self.variation < 0 or self.between < 0 or not 0 <= self.start < 1:
            raise MethodError("stage 'text-sinks' needs share > 0, variation and between >= 0, and start in [0, 1)")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """Attention between words, where it is a test."""
        return RecordSpec(text_to_text=self.between > 0)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Drop the sinks.

        Raises:
            MethodError: attention between words is a test and was not recorded.
        """
        share, variation, between = self.measure(maps)
        flagged = (share >= self.share) & (variation <= self.variation) & (between >= self.between)
        dropped = flagged & ~_spared(maps, flagged)
        values = maps.values
        if self.handling == "renormalise":
            left = 1 - values[:, :, :, flagged].sum(axis=3, keepdims=True)
            values = np.divide(values, left, out=np.zeros_like(values), where=left > 1e-6)
        result = keep_words(replace(maps, values=values), np.flatnonzero(~dropped).tolist())
        before, after = (float(one.values.sum(dtype=float)) for one in (maps, result))
        sinks = [word.text for word, sink in zip(maps.words, flagged, strict=True) if sink]
        detail = f"{len(sinks)} of {len(maps.words)} words are sinks" + (f": {' '.join(sinks)}" if sinks else "")
        table = [
            {
                "text": word.text,
                "kind": str(word.kind),
                "share": round(float(share[i]), 4),
                "variation": round(float(variation[i]), 4),
                "between": round(float(between[i]), 4) if self.between else None,
                "sink": bool(flagged[i]),
                "dropped": bool(dropped[i]),
            }
            for i, word in enumerate(maps.words)
        ]
        why = {int(i): "sink" for i in np.flatnonzero(dropped)}
        return result, StageReport(self.name, lost_share(before, after), detail, {"words": table}, why)

    def measure(self, maps: AttentionMaps) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Per word [T]: share over equal weights, variation over cells, weight from other words over the median's.

        Raises:
            MethodError: see `apply`.
        """
        deep = self._deepest(maps)
        tokens = np.array([max(len(word.positions), 1) for word in maps.words])
        cells = maps.values[:, deep][..., image_columns(maps)].mean(axis=(0, 1, 2), dtype=float)  # [T, X]
        mean = cells.mean(axis=1)
        share = mean / tokens * tokens.sum()
        variation = np.divide(cells.std(axis=1), mean, out=np.full_like(mean, np.inf), where=mean > 0)
        if not self.between:
            return share, variation, np.zeros_like(share)
        if maps.text_to_text is None:
            raise MethodError(
                "stage 'text-sinks' needs attention between words, but the maps carry none: record with "
                "text_to_text=True, or set between: 0"
            )
        weights = maps.text_to_text[:, deep].mean(axis=(0, 1, 2), dtype=float) / tokens  # [T, T]
        np.fill_diagonal(weights, 0)
        column = weights.sum(axis=0) / max(len(weights) - 1, 1)
        middle = float(np.median(column))
        return share, variation, np.divide(column, middle, out=np.zeros_like(column), where=middle > 0)

    def _deepest(self, maps: AttentionMaps) -> list[int]:
        """Entries of the layer axis that count."""
        everything = list(range(maps.values.shape[1]))
        if not maps.layers:
            return everything
        first = share_of(self.start, maps.layer_count or max(maps.layers) + 1)
        return [i for i, layer in enumerate(maps.layers) if layer >= first] or everything


def _spared(maps: AttentionMaps, flagged: BoolArray) -> BoolArray:
    """The content words, where all of them are sinks."""
    content = np.array([word.kind is WordKind.CONTENT for word in maps.words])
    return content if not (content & ~flagged).any() else np.zeros_like(content)
