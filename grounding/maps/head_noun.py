"""Keep what names the thing: the head noun of the expression, or its noun phrase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from grounding.maps.base import Part, Stage, keep_words, lost_share
from grounding.types import AttentionMaps, StageReport, WordKind


@dataclass(frozen=True)
class HeadNoun(Stage):
    """Drop the words of the text outside the head noun, or outside its phrase; special tokens stay.

    An expression without a head noun keeps all of its words.

    Attributes:
        keep: `noun`: the head noun alone; `phrase`: the content words directly before it as well ("small red star").

    Notes:
        RefAM (arXiv 2509.22650) names noun-phrase filtering in its ablation and does not define it.
    """

    name: ClassVar[str] = "head-noun"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    takes_signed: ClassVar[bool] = True
    keep: Literal["noun", "phrase"] = "phrase"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Drop the other words."""
        kept = self._kept(maps)
        other = [i for i, word in enumerate(maps.words) if word.kind in (WordKind.SPECIAL, WordKind.MAGNET)]
        result = keep_words(maps, sorted({*kept, *other})) if kept else maps
        removed = lost_share(float(maps.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        why = {i: "outside the head noun's phrase" for i in range(len(maps.words)) if kept and i not in (*kept, *other)}
        named = [maps.words[i].text for i in kept]
        detail = f"kept {' '.join(named)}" if named else "no head noun, so all words are kept"
        return result, StageReport(self.name, removed, detail, {"kept": named}, why)

    def _kept(self, maps: AttentionMaps) -> list[int]:
        own = [i for i, word in enumerate(maps.words) if word.kind not in (WordKind.SPECIAL, WordKind.MAGNET)]
        own.sort(key=lambda i: maps.words[i].span)
        heads = [rank for rank, i in enumerate(own) if maps.words[i].is_head]
        if not heads:
            return []
        first = heads[0]
        while self.keep == "phrase" and first > 0 and maps.words[own[first - 1]].kind is WordKind.CONTENT:
            first -= 1
        return [own[rank] for rank in range(first, heads[-1] + 1)]
