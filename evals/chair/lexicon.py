"""CHAIR's tables: which words name which COCO class.

Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018, and the released code. The synonym list is read
as that code reads it, quirks included: fields are split at ", ", so an entry after two blanks keeps a leading blank and
never matches, and of two lines that share a word the later one wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evals.inputs import read_text
from grounding.errors import EvalDataError

DoubleWords = Literal["original", "standalone"]
# "original" is the list of the first release; the standalone port and its descendants (OPERA, PAI and others) add
# "train track", so that a track does not count as a train.

_PAIRS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, bow tie, laptop computer, "
    "stove top oven, home plate"
).split(", ")
_ADDED: dict[str, tuple[str, ...]] = {"original": (), "standalone": ("train track",)}
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
_VEHICLES = ("jet", "train")
_MAPPED = {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


@dataclass(frozen=True)
class Lexicon:
    """CHAIR's tables.

    Attributes:
        class_of: from a word or merged words to the class, the head word of its line.
        pairs: from two neighbouring words to the word that replaces them; "stove top oven" has three and never matches.
        double_words: variant of the pairs.
    """

    class_of: Mapping[str, str]
    pairs: Mapping[str, str]
    double_words: DoubleWords = "original"

    def merge(self, words: Sequence[str]) -> tuple[str, ...]:
        """Join neighbouring words from left to right; each word is used once."""
        merged: list[str] = []
        at = 0
        while at < len(words):
            joined = self.pairs.get(" ".join(words[at : at + 2])) if at + 1 < len(words) else None
            merged.append(words[at] if joined is None else joined)
            at += 1 if joined is None else 2
        return tuple(merged)

    def objects(self, merged: Sequence[str]) -> tuple[str, ...]:
        """List the classes that merged words name, one per mention, in order.

        If a toilet is named too, "seat" does not count as a chair.
        """
        words = [word for word in merged if word != "seat"] if {"toilet", "seat"} <= set(merged) else merged
        return tuple(self.class_of[word] for word in words if word in self.class_of)

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
    pairs = {pair: pair for pair in (*_PAIRS, *_ADDED[double_words])}
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
