"""Find where a text begins to repeat itself."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"[^.!?]*[.!?]")
_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 3  # of a sentence that counts as said again; "Yes." may be said twice
_RUN = 4  # times that a passage is said in a row before it counts as a loop
_LONGEST = 12  # words of a passage that loops


def repeat_start(text: str) -> int | None:
    """The first character of a text that only says again what stands before it; None where nothing does.

    A sentence repeats if an earlier one has the same words in the same order. A passage of up to 12 words repeats if it
    is said four times in a row or more, inside a sentence or across; its first mention is kept.

    Notes:
        The numbers are our choice: short answers, and words said twice or three times for emphasis, are no repeats.
    """
    starts = [start for start in (_second_sentence(text), _loop(text)) if start is not None]
    return min(starts, default=None)


def _second_sentence(text: str) -> int | None:
    said: set[tuple[str, ...]] = set()
    for sentence in _SENTENCE.finditer(text):
        words = tuple(_WORD.findall(sentence[0].lower()))
        if len(words) < _FEWEST_WORDS:
            continue
        if words in said:
            return sentence.start() + len(sentence[0]) - len(sentence[0].lstrip())
        said.add(words)
    return None


def _loop(text: str) -> int | None:
    found = list(_WORD.finditer(text.lower()))
    words = [one[0] for one in found]
    for start in range(len(words) - _RUN + 1):
        for length in range(1, min(_LONGEST, (len(words) - start) // _RUN) + 1):
            passage = words[start : start + length]
            if words[start : start + _RUN * length] == _RUN * passage:
                return found[start + length].start()
    return None
