"""Signs that a text degenerates: repeated phrases, repeated sentences, an end in mid-sentence.

None of the published scores looks at these; a method that loops or stops early can have a better CHAIR by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GRAM = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_CLOSED = re.compile(r"[.!?][\"'\u201d\u2019)\]]*$")


@dataclass(frozen=True)
class TextQuality:
    """One text.

    Attributes:
        distinct_grams: how many of its 4-grams differ.
        grams: how many it has; 0 for a text of fewer than four tokens.
        repeats: whether a sentence stands in it twice, letter for letter but for case and outer blanks.
        cut_off: whether it ends without a full stop, exclamation or question mark; an empty text is not cut off.
    """

    distinct_grams: int
    grams: int
    repeats: bool
    cut_off: bool


def text_quality(text: str, tokens: Sequence[str]) -> TextQuality:
    """The signs in one text.

    Args:
        text: as written.
        tokens: its words and punctuation marks.
    """
    grams = [tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)]
    sentences = [part.strip().lower() for part in _SENTENCE_END.split(text) if part.strip()]
    return TextQuality(
        distinct_grams=len(set(grams)),
        grams=len(grams),
        repeats=len(set(sentences)) < len(sentences),
        cut_off=bool(text.strip()) and _CLOSED.search(text.strip()) is None,
    )
