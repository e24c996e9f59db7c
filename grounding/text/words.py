"""Text to words with character spans, and the kind of each word: content, stop or spatial.

A word is a run of letters, marks, digits, underscores and pictographs of any script; hyphens and apostrophes join two
runs (`t-shirt`, `man's`), and so does a point or comma between digits (`2.5`). All other characters separate words.
The kinds come from the project's word list, `stopwords.txt`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from grounding.types import Word, WordKind

_HYPHENS_AND_APOSTROPHES = "-'\u2019\u2010\u2011"
_ZERO_WIDTH_JOINERS = "\u200c\u200d"  # inside words of Persian and Indic scripts, and between pictographs

Phrase = tuple[int, int]
"""A noun phrase in a sequence of words: (index of its first word, index of its noun)."""


@cache
def word_list() -> dict[str, frozenset[str]]:
    """Read the project's word list.

    Returns:
        Words in lower case by section, `stop` and `spatial`.
    """
    text = (files("grounding.text") / "stopwords.txt").read_text(encoding="utf-8")
    sections: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in text.splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[] "), set())
        elif not line.startswith("#"):
            current.update(line.split())
    return {name: frozenset(words) for name, words in sections.items()}


def normal(word: str) -> str:
    """Normalise a word for look-up: lower case, straight apostrophe, plain hyphen."""
    return re.sub("[\u2010\u2011]", "-", word.replace("\u2019", "'")).casefold()


def kind_of(word: str) -> WordKind:
    """Classify a single word as stop, spatial or content."""
    sections = word_list()
    form = normal(word)
    if form in sections["stop"]:
        return WordKind.STOP
    return WordKind.SPATIAL if form in sections["spatial"] else WordKind.CONTENT


def split_words(text: str) -> tuple[Word, ...]:
    """Split a text into words.

    Args:
        text: any string.

    Returns:
        The words in order with spans into `text`, so `text[slice(*word.span)] == word.text`; without token positions.
    """
    return tuple(Word(text[a:b], (a, b), (), kind_of(text[a:b])) for a, b in _spans(text))


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
        return before.isdigit() and after.isdigit()
    return letter in _ZERO_WIDTH_JOINERS
