"""Find the character spans of a text's objects, for highlighting and for the tokens that name them.

Always by the rules of `evals.chair.words`, whichever pipeline scored the captions: NLTK's lemmas have no offsets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evals.chair.lexicon import Lexicon, make_lexicon
from evals.chair.words import singular, token_spans


@dataclass(frozen=True)
class Mention:
    """One mention of an object.

    Attributes:
        start: offset of the first character.
        end: offset after the last character.
        object: the class.
    """

    start: int
    end: int
    object: str


def mention_spans(text: str, lexicon: Lexicon) -> tuple[Mention, ...]:
    """List every mention of a class in a text, in order."""
    words = [(singular(word), start, end) for word, start, end in token_spans(text)]
    merged: list[tuple[str, int, int]] = []
    at = 0
    while at < len(words):
        pair = lexicon.pairs.get(" ".join(word for word, _, _ in words[at : at + 2])) if at + 1 < len(words) else None
        last = at if pair is None else at + 1
        merged.append((words[at][0] if pair is None else pair, words[at][1], words[last][2]))
        at = last + 1
    skipped = {"seat"} if {"toilet", "seat"} <= {word for word, _, _ in merged} else set()
    return tuple(
        Mention(start, end, lexicon.class_of[word])
        for word, start, end in merged
        if word in lexicon.class_of and word not in skipped
    )


def plain_lexicon(classes: Iterable[str]) -> Lexicon:
    """Build tables in which every class has only its own name; names of two words are merged."""
    names = list(dict.fromkeys(classes))
    known = make_lexicon("\n".join(names))
    pairs = {name: name for name in names if name.count(" ") == 1}
    return Lexicon(known.class_of, {**known.pairs, **pairs}, known.double_words)
