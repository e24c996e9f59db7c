"""Combine the words that are kept into one map, as weights of each cell on text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import ExpressionError
from grounding.maps.base import Part, Stage, keep_words, lost_share
from grounding.types import AttentionMaps, StageReport, Word, WordKind


@dataclass(frozen=True)
class Combine(Stage):
    """Join the words of the text that are left, [S, L, H, T, K] -> [S, L, H, 1, K]; special tokens are left out.

    Where each cell's weights on all text tokens sum to 1, the sum is 1 minus the weight on every token that was dropped
    or is left out.

    Attributes:
        how: `sum`: the sum over words, each the sum of its tokens, as RefAM (arXiv 2509.22650) does. `mean`: the sum
            over words of the mean of their tokens, so that words of several pieces count no more than others. `max`:
            each cell's largest word.

    Notes:
        Maps whose queries are words hold the mean of a word's tokens; there `sum` and `mean` are the same.
    """

    name: ClassVar[str] = "combine"
    spends: ClassVar[frozenset[Part]] = frozenset({"words"})
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    how: Literal["sum", "mean", "max"] = "sum"

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Join the words of maps and background; a generic prompt without words is read at all of its tokens."""
        result, report = self.apply(maps)
        behind = maps.background
        if behind is not None:
            kept = _words(behind) or list(range(len(behind.words)))
            result = replace(result, background=self._join(behind, kept)[0])
        return result, report

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Join the words.

        Raises:
            ExpressionError: no word of the text is left.
        """
        kept = _words(maps)
        if not kept:
            raise ExpressionError("the expression's words were all left out, none of them names an object: name one")
        return self._join(maps, kept)

    def _join(self, maps: AttentionMaps, kept: list[int]) -> tuple[AttentionMaps, StageReport]:
        own = keep_words(maps, kept)
        values = own.values
        if self.how == "mean" and maps.direction == "image-to-word":
            values = values / np.array([max(len(word.positions), 1) for word in own.words], np.float32)[:, None]
        joined = values.max(axis=3, keepdims=True) if self.how == "max" else values.sum(axis=3, keepdims=True)
        positions = tuple(sorted(p for word in own.words for p in word.positions))
        word = Word(f"<{self.how}>", (0, 0), positions, WordKind.SPECIAL)
        removed = lost_share(float(maps.values.sum(dtype=float)), float(joined.sum(dtype=float)))
        named = [word.text for word in own.words]
        detail = f"{self.how} of {len(named)} of {len(maps.words)} words: {', '.join(named)}"
        result = replace(own, values=joined, words=(word,), text_to_text=None, logits=None)
        names = {WordKind.SPECIAL: "special token", WordKind.MAGNET: "magnet"}
        why = {i: names[word.kind] for i, word in enumerate(maps.words) if i not in kept}
        share = tuple(float(i in kept) / len(kept) for i in range(len(maps.words)))
        return result, StageReport(self.name, removed, detail, {"words": named}, why, share)


def _words(maps: AttentionMaps) -> list[int]:
    """Indices of the words of the text."""
    return [i for i, word in enumerate(maps.words) if word.kind not in (WordKind.SPECIAL, WordKind.MAGNET)]
