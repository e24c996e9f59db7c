"""CHAIR's tables: which words name which COCO class.

Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018, and the released code. The synonym list is read
as that code reads it, quirks included: fields are split at ", ", so an entry after two blanks keeps a leading blank and
never matches, and of two lines that share a word the later one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from evals.inputs import read_text
from grounding.errors import EvalDataError

DoubleWords = Literal["original", "standalone"]
# The released code and its standalone port, on which OPERA, PAI and others build, hold the same pairs: the former added
# "train track" in 2019, so that a track does not count as a train. Both names are kept for what was scored by them.

_PAIRS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer, "
    "stove top oven, home plate, train track"
).split(", ")
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
_VEHICLES = ("jet", "train")
_MAPPED = {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


@dataclass(frozen=True)
class Lexicon:
    """CHAIR's tables.

    Attributes:
        class_of: from a word or merged words to the class, the head word of its line.
        pairs: from two neighbouring words to the word that replaces them; "stove top oven" has three and never matches.
        double_words: name of the list of pairs.
    """

    class_of: Mapping[str, str]
    pairs: Mapping[str, str]
    double_words: DoubleWords = "original"

    def merge(self, words: Sequence[str]) -> tuple[str, ...]:
        """Join neighbouring words from left to right; each word is used once."""
        if self._first_halves.isdisjoint(words):
            return tuple(words)
        merged: list[str] = []
        at = 0
        while at < len(words):
            joined = self.pairs.get(" ".join(words[at : at + 2])) if at + 1 < len(words) else None
            merged.append(words[at] if joined is None else joined)
            at += 1 if joined is None else 2
        return tuple(merged)

    def places(self, merged: Sequence[str]) -> tuple[int, ...]:
        """List the indices of the merged words that name a class, in order.

        If a toilet is named too, "seat" does not count as a chair.
        """
        known = self.class_of
        found = [place for place, word in enumerate(merged) if word in known]
        if any(merged[place] == "seat" for place in found) and "toilet" in merged:
            found = [place for place in found if merged[place] != "seat"]
        return tuple(found)

    def objects(self, merged: Sequence[str]) -> tuple[str, ...]:
        """List the classes that merged words name, one per mention, in order; see `places`."""
        return tuple(self.class_of[merged[place]] for place in self.places(merged))

    @cached_property
    def _first_halves(self) -> frozenset[str]:
        """The words with which a pair can begin."""
        return frozenset(pair.split(" ")[0] for pair in self.pairs)

    @property
    def classes(self) -> frozenset[str]:
        """The head words."""
        return frozenset(self.class_of.values())


def make_lexicon(synonyms: str, double_words: DoubleWords = "original") -> Lexicon:
    """Build the tables from a synonym list: one class per line, its words separated by ", ", the head word first."""
    class_of: dict[str, str] = {}
    for line in synonyms.splitlines():
        words = line.strip().split(", ")
        class_of.update(dict.fromkeys(filter(None, words), words[0]))
    pairs = {pair: pair for pair in _PAIRS}
    pairs.update({f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS})
    pairs.update({f"passenger {vehicle}": vehicle for vehicle in _VEHICLES})
    return Lexicon(class_of, {**pairs, **_MAPPED}, double_words)


def read_lexicon(path: str | Path, double_words: DoubleWords = "original") -> Lexicon:
    """Read the tables from a synonym list.

    Raises:
        EvalDataError: it cannot be read, or is not a synonym list.
    """
    text = read_text(path, "the synonyms")
    if text.lstrip().startswith(("{", "[")) or not any(", " in line for line in text.splitlines()):
        raise EvalDataError(
            f"{path} is no synonym list: expected text with one class a line and its words separated by ', ', head "
            "word first (motorcycle, scooter, moped)"
        )
    return make_lexicon(text, double_words)
