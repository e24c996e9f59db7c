"""Read AMBER's annotations, word lists and responses.

Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation", 2023, and its released
data: 1,004 images to describe and 14,216 yes-no questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evals.inputs import field, listed, read_json, read_rows, read_text, refuse_doubles, refuse_empty, whole_number
from grounding.errors import EvalDataError

Dimension = Literal["existence", "state", "number", "action", "relation"]
DIMENSIONS: tuple[Dimension, ...] = ("existence", "state", "number", "action", "relation")
GENERATIVE = "generative"
RESPONSE_NAMES = ("response", "answer", "caption", "text")
# The data has two types for relations: "relation" where the answer is no, "discriminative-relation" where it is yes.
# The authors' script counts every unknown type as a relation.
_TYPES: Mapping[str, Dimension] = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}


@dataclass(frozen=True)
class AmberScene:
    """Annotation of an image to describe.

    Attributes:
        truth: words for the objects that it shows.
        targets: words for objects that models are likely to hallucinate.
    """

    truth: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """A yes-no question.

    Attributes:
        dimension: the kind of question.
        truth: whether the right answer is yes.
    """

    dimension: Dimension
    truth: bool


@dataclass(frozen=True)
class Annotations:
    """The annotations by id."""

    scenes: Mapping[int, AmberScene]
    statements: Mapping[int, Statement]


@dataclass(frozen=True)
class Words:
    """The word lists.

    Attributes:
        associates: from a word to the words for the same object.
        safe: words that never count as hallucinations.
    """

    associates: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]

    @cached_property
    def known(self) -> frozenset[str]:
        """Every word that counts as an object."""
        return frozenset(self.associates).union(*self.associates.values())


def read_annotations(path: str | Path) -> Annotations:
    """Read the authors' `annotations.json`.

    Raises:
        EvalDataError: it cannot be read, or a row has another format.
    """
    scenes: dict[int, AmberScene] = {}
    statements: dict[int, Statement] = {}
    rows = read_rows(path, "AMBER's annotations")
    ids = []
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {path}"
        one, kind = whole_number(row, ("id",), where), field(row, ("type",), str, where)
        ids.append(one)
        if kind == GENERATIVE:
            truth, targets = (_words(row, name, where) for name in ("truth", "hallu"))
            scenes[one] = AmberScene(truth, targets)
        elif kind in _TYPES:
            statements[one] = Statement(_TYPES[kind], _yes_or_no(row, where))
        else:
            raise EvalDataError(f"{where} has the type {kind!r}, expected {GENERATIVE} or {', '.join(_TYPES)}: mend it")
    refuse_doubles(ids, path, "ids")
    return Annotations(scenes, statements)


def read_words(relation: str | Path, safe: str | Path) -> Words:
    """Read the authors' `relation.json` and `safe_words.txt`.

    Raises:
        EvalDataError: one of them cannot be read, or the first is not an object of word lists.
    """
    data = read_json(relation, "AMBER's word associations")
    if not isinstance(data, dict) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in data.values()
    ):
        raise EvalDataError(f"{relation} is no object of word lists: give AMBER's relation.json")
    never = frozenset(read_text(safe, "AMBER's safe words").split("\n")) - {""}
    return Words({word: tuple(words) for word, words in data.items()}, never)


def read_responses(path: str | Path, annotations: Annotations) -> dict[int, str]:
    """Read responses by id: one JSON array, or JSON lines, of `id` (or `question_id`) and `response` (or `text`, ...).

    Raises:
        EvalDataError: the file cannot be read, an id occurs twice, or the annotations lack an id.
    """
    pairs = []
    for number, row in enumerate(read_rows(path, "the responses"), 1):
        where = f"row {number} of {path}"
        pairs.append((whole_number(row, ("id", "question_id"), where), field(row, RESPONSE_NAMES, str, where)))
    refuse_doubles((one for one, _ in pairs), path, "ids")
    unknown = [one for one, _ in pairs if one not in annotations.scenes and one not in annotations.statements]
    if unknown:
        raise EvalDataError(
            f"{path}: {len(unknown)} of {len(pairs)} ids are not in AMBER's annotations ({listed(unknown)}): give "
            "responses to its own queries"
        )
    refuse_empty([text for _, text in pairs], path)
    return dict(pairs)


def _words(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    words = field(row, (name,), list, where)
    if not all(isinstance(word, str) for word in words):
        raise EvalDataError(f"{where}: {name!r} must be a list of words: give AMBER's annotations.json")
    return tuple(words)


def _yes_or_no(row: Mapping[str, Any], where: str) -> bool:
    value = field(row, ("truth",), str, where)
    if value not in ("yes", "no"):
        raise EvalDataError(f"{where} has the truth {value!r}, expected 'yes' or 'no': give AMBER's annotations.json")
    return value == "yes"
