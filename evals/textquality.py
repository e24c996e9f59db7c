"""Detect degenerate texts: repeated phrases, repeated sentences, an end in mid-sentence.

The published metrics ignore these, and a method that loops or stops early can have a better CHAIR because of it.
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
    """Repetition and ending of one text.

    Attributes:
        distinct_grams: number of distinct 4-grams.
        grams: number of 4-grams; 0 for a text of fewer than four tokens.
        repeats: whether a sentence occurs twice, ignoring case and outer blanks.
        cut_off: whether the text ends without a full stop, exclamation or question mark; False for an empty text.
    """

    distinct_grams: int
    grams: int
    repeats: bool
    cut_off: bool


def text_quality(text: str, tokens: Sequence[str]) -> TextQuality:
    """Measure one text.

    Args:
        text: the text.
        tokens: its words and punctuation marks.
    """
    grams = list(zip(*(tokens[at:] for at in range(GRAM)), strict=False))
    sentences = [part.strip().lower() for part in _SENTENCE_END.split(text) if part.strip()]
    return TextQuality(
        distinct_grams=len(set(grams)),
        grams=len(grams),
        repeats=len(set(sentences)) < len(sentences),
        cut_off=bool(text.strip()) and _CLOSED.search(text.strip()) is None,
    )
