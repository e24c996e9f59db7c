"""What a model says about photos: POPE's questions, and captions scored by CHAIR."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grounding.errors import ManifestError

_NO_OBJECT = ("home plate", "train track")  # compounds of CHAIR whose parts would be read as objects
_YOUNG = frozenset(("baby", "adult", "passenger"))  # and words it drops before animals and vehicles
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "people", "knives": "knife", "mice": "mouse",
    "skis": "skis", "sheep": "sheep", "scissors": "scissors", "geese": "goose", "calves": "calf", "buses": "bus",
}  # fmt: skip


def says_yes(answer: str) -> bool:
    """POPE's reading of an answer: of its first sentence, no where it holds "No", "no" or "not", else yes.

    Li et al., 2023, the official evaluation script.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


@dataclass(frozen=True)
class PopeScore:
    """Fractions in [0, 1] over n questions, yes counting as positive."""

    n: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def pope_score(said: Sequence[bool], truth: Sequence[bool]) -> PopeScore:
    """Scores of one split.

    Args:
        said: per question whether the answer was yes.
        truth: whether it should have been.
    """
    both = sum(a and b for a, b in zip(said, truth, strict=True))
    right = sum(a == b for a, b in zip(said, truth, strict=True))
    precision, recall = both / max(1, sum(said)), both / max(1, sum(truth))
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return PopeScore(len(said), right / len(said), precision, recall, f1, sum(said) / len(said))


@dataclass(frozen=True)
class CaptionScore:
    """One caption by CHAIR.

    Attributes:
        mentioned: objects named, in order, each time they are named.
        invented: those of them that the photo does not show.
        found: how many of the photo's objects are named.
        shown: how many it shows.
        words: the caption's length.
    """

    mentioned: tuple[str, ...]
    invented: tuple[str, ...]
    found: int
    shown: int
    words: int


def read_synonyms(file: Path) -> dict[str, str]:
    """Word to COCO class, from CHAIR's list: one class a line, its name first.

    Raises:
        ManifestError: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        raise ManifestError(f"the synonyms {file} cannot be read: give CHAIR's list, one class a line") from wrong
    rows = [[word.strip() for word in line.split(",") if word.strip()] for line in lines if line.strip()]
    return {word: row[0] for row in rows for word in row}


def chair(caption: str, objects: Sequence[str], synonyms: Mapping[str, str]) -> CaptionScore:
    """Objects that a caption names and the photo does not show (Rohrbach et al., 2018, section 3.1).

    Args:
        caption: the text.
        objects: COCO classes the photo shows.
        synonyms: word to class; names of several words are matched first.
    """
    words = [singular(word) for word in re.findall(r"[a-z]+", caption.lower())]
    mentioned: list[str] = []
    at = 0
    while at < len(words):
        pair = " ".join(words[at : at + 2])
        if pair in _NO_OBJECT:
            at += 2
        elif pair in synonyms:
            mentioned.append(synonyms[pair])
            at += 2
        else:
            after = words[at + 1] if at + 1 < len(words) else ""
            drops = words[at] in _YOUNG and after in synonyms and synonyms[after] != "person"
            if words[at] in synonyms and not drops:
                mentioned.append(synonyms[words[at]])
            at += 1
    invented = tuple(name for name in mentioned if name not in objects)
    return CaptionScore(
        tuple(mentioned), invented, len(set(mentioned) & set(objects)), len(objects), len(caption.split())
    )


def singular(word: str) -> str:
    """A noun's singular by rules for the plurals that captions use."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word
