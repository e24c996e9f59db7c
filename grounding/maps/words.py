"""Select the words whose rows make the map, and mix their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from grounding.errors import ExpressionError, MethodError
from grounding.maps.base import LAST, Part, Stage, image_columns, keep_words, lost_share
from grounding.types import AttentionMaps, StageReport, Word, WordKind

_NAMES = {kind: f"{kind} word" for kind in WordKind} | {WordKind.MAGNET: "magnet"}
_GROUPS = {
    "words": "words",
    "content": "content words",
    "head": "the head noun",
    "last": "the last token",
    "spatial": "spatial words",
    "stop": "stop words",
}
"""What reports call the kinds of words, and the groups of `Rows`."""


@dataclass(frozen=True)
class StopWords(Stage):
    """Drop the rows of words that name no object.

    Attributes:
        kinds: the kinds of words to drop.
    """

    name: ClassVar[str] = "stop-words"
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    takes_signed: ClassVar[bool] = True
    kinds: tuple[WordKind, ...] = (WordKind.STOP, WordKind.MAGNET)

    def __post_init__(self) -> None:
        if not self.kinds or WordKind.SPECIAL in self.kinds:
            raise MethodError("stage 'stop-words' needs kinds of words to drop, and cannot drop special ones")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Drop the rows.

        Raises:
            ExpressionError: no row would be left.
        """
        kept = [i for i, word in enumerate(maps.words) if word.kind not in self.kinds]
        if not kept:
            raise ExpressionError(
                f"the words {' '.join(word.text for word in maps.words)!r} hold nothing to look for: name an object"
            )
        why = {i: _NAMES[word.kind] for i, word in enumerate(maps.words) if word.kind in self.kinds}
        dropped = [maps.words[i].text for i in why]
        result = keep_words(maps, kept)
        removed = lost_share(float(maps.values.sum(dtype=float)), float(result.values.sum(dtype=float)))
        detail = f"{len(dropped)} of {len(maps.words)} rows dropped" + (f": {', '.join(dropped)}" if dropped else "")
        return result, StageReport(self.name, removed, detail, {"dropped": dropped}, why)


@dataclass(frozen=True)
class Rows(Stage):
    """Mix the words' rows into one, [S, L, H, T, K] -> [S, L, H, 1, K].

    Each field but the last is the weight of a group; a group's row is the mean of its words' rows, a word may be in
    several groups, and weights are divided by the sum over the groups that are present.

    Attributes:
        words: weight of all words of the text that are left, whatever their kind.
        content: weight of all content words, head noun included.
        head: weight of the words of the head noun.
        last: weight of the prompt's last token.
        spatial: weight of spatial words ("left"), which point at a side rather than at the object.
        stop: weight of stop words.
        normalise: divide each word's row by its image attention first, so that words with more attention on the image
            do not dominate. One divisor per word, the same for all steps, layers and heads, keeps heads comparable.

    Notes:
        The weighted mix is our choice. VL-SAM reads the generated object token; localisation heads, DecAF and ViCrop
        read the prompt's last token (`last: 1` alone). A background of other words is read at its last token, as DecAF
        and ViCrop do, because the words of a generic prompt name no object; so is a prompt without words of its own.
    """

    name: ClassVar[str] = "rows"
    spends: ClassVar[frozenset[Part]] = frozenset({"words"})
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    words: float = 0.0
    content: float = 0.0
    head: float = 0.0
    last: float = 0.0
    spatial: float = 0.0
    stop: float = 0.0
    normalise: bool = True

    def __post_init__(self) -> None:
        weights = (self.words, self.content, self.head, self.last, self.spatial, self.stop)
        if min(weights) < 0 or sum(weights) <= 0:
            raise MethodError(
                "stage 'rows' needs weights >= 0 and one above 0 among words, content, head, last, spatial, stop"
            )

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Mix the maps' rows; of the background keep the last token's row, or the mean of all where it has none.

        A background of the same words is mixed in the same way.
        """
        result, report = self.apply(maps)
        behind = maps.background
        if behind is not None and [word.text for word in behind.words] == [word.text for word in maps.words]:
            result = replace(result, background=self.apply(behind)[0])
        elif behind is not None:
            last = any(word.text == LAST for word in behind.words)
            rule = Rows(last=1, normalise=self.normalise) if last else Rows(words=1, normalise=self.normalise)
            result = replace(result, background=rule.apply(behind)[0])
        return result, report

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Mix the rows.

        Raises:
            ExpressionError: none of the weighted groups is among the words.
        """
        groups = {
            "words": ([w.kind != WordKind.SPECIAL for w in maps.words], self.words),
            "content": ([w.kind == WordKind.CONTENT for w in maps.words], self.content),
            "head": ([w.is_head for w in maps.words], self.head),
            "last": ([w.text == LAST for w in maps.words], self.last),
            "spatial": ([w.kind == WordKind.SPATIAL for w in maps.words], self.spatial),
            "stop": ([w.kind == WordKind.STOP for w in maps.words], self.stop),
        }
        if all(word.kind == WordKind.SPECIAL for word in maps.words):
            groups = {"last": (*groups["last"][:1], 1.0)}
        present = {
            name: (np.array(members), weight) for name, (members, weight) in groups.items() if weight and any(members)
        }
        if not present:
            wanted = ", ".join(name for name, (_, weight) in groups.items() if weight)
            raise ExpressionError(
                f"the method reads the rows of {wanted} words, but the words {' '.join(w.text for w in maps.words)!r} "
                "hold none: name an object, or give another group a weight"
            )
        share = np.zeros(len(maps.words))
        for members, weight in present.values():
            share += weight * members / members.sum()
        share /= share.sum()
        mass = maps.values[..., image_columns(maps)].sum(axis=-1, dtype=float).mean(axis=(0, 1, 2))  # [T]
        scale = np.ones(len(maps.words))
        if self.normalise:
            scale = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)
        values = np.einsum("t,slhtk->slhk", (share * scale).astype(np.float32), maps.values)[:, :, :, None]
        label = "+".join(present)
        positions = tuple(
            sorted({p for word, part in zip(maps.words, share, strict=True) if part for p in word.positions})
        )
        mixed = Word(text=f"<{label}>", span=(0, 0), positions=positions, kind=WordKind.SPECIAL)
        result = replace(maps, values=values, words=(mixed,), text_to_text=None, logits=None)
        read = [word.text for word, part in zip(maps.words, share, strict=True) if part]
        removed = lost_share(float(mass.sum()), float(mass[share > 0].sum()))
        data = {
            "share": {
                f"{i}:{w.text}": round(float(s), 4) for i, (w, s) in enumerate(zip(maps.words, share, strict=True))
            }
        }
        unread = f"the method reads {' and '.join(_GROUPS[name] for name in present)}"
        return result, StageReport(
            self.name,
            removed,
            f"{len(read)} of {len(maps.words)} rows read: {', '.join(read)}",
            data,
            {i: unread for i, part in enumerate(share) if not part},
            tuple(round(float(part), 6) for part in share),
        )
