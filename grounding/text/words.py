"""Text to words with character spans.

A word is a run of letters, marks, digits, underscores and pictographs of any script; hyphens and apostrophes join two
runs (`t-shirt`, `man's`), and so do a point or comma between digits (`2.5`) and points between single letters (`U.S`).
All other characters separate words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from grounding.text.kinds import kinds_in
from grounding.types import Word

_HYPHENS_AND_APOSTROPHES = "-'\u2019\u2010\u2011"
_ABBREVIATION = re.compile(r"(?<=\b[^\W\d_])\.[^\W\d_]\b")  # a point between two letters that stand alone
_ZERO_WIDTH_JOINERS = "\u200c\u200d"  # inside words of Persian and Indic scripts, and between pictographs

Phrase = tuple[int, int]
"""A noun phrase in a sequence of words: (index of its first word, index of its noun)."""


def split_words(text: str) -> tuple[Word, ...]:
    """Split a text into words.

    Args:
        text: any string.

    Returns:
        The words in order with spans into `text`, so `text[slice(*word.span)] == word.text`; without token positions.
    """
    spans = tuple(_spans(text))
    return tuple(Word(text[a:b], (a, b), (), kind) for (a, b), kind in zip(spans, kinds_in(text, spans), strict=True))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start: int | None = None
    for index, letter in enumerate(text):
        inside = _is_letter(letter) or (start is not None and _joins(text, index))
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            yield start, index
            start = None
    if start is not None:
        yield start, len(text)


def _is_letter(letter: str) -> bool:
    category = unicodedata.category(letter)
    return letter == "_" or category[0] in "LMN" or category == "So" or "\U0001f3fb" <= letter <= "\U0001f3ff"


def _joins(text: str, index: int) -> bool:
    if not 0 < index < len(text) - 1 or not _is_letter(text[index + 1]):
        return False
    before, letter, after = text[index - 1], text[index], text[index + 1]
    if letter in _HYPHENS_AND_APOSTROPHES:
        return _is_letter(before)
    if letter in ".,":
        return (before.isdigit() and after.isdigit()) or (
            letter == "." and _ABBREVIATION.match(text, index) is not None
        )
    return letter in _ZERO_WIDTH_JOINERS
