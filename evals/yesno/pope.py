"""Read POPE's question files and identify their copy.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023. Several copies of the COCO
questions are in circulation: some have 2,910 random questions instead of 3,000 (1,410 whose right answer is no), and
some spell image as "imange". The split and copy of a file are identified by its content, not by its name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.inputs import field, read_rows, refuse_doubles, whole_number
from evals.yesno.confusion import Answered, answered
from evals.yesno.parsers import Parser
from grounding.errors import EvalDataError

# By the fingerprint of (image, object, label), which does not depend on the misspelling.
COPIES: Mapping[str, str] = {
    "b3c931405980cab4": "coco random",
    "28a45777b55535ab": "coco random (2,910-row copy)",
    "7dfef3c9b50ad62e": "coco popular",
    "582125b92aa689dc": "coco adversarial",
}
OFFICIAL_ROWS = 3000
_OBJECT = re.compile(r"is there an? (.+?) in the iman?ge", re.IGNORECASE)
_TYPO = "imange"
_HEX = 16


@dataclass(frozen=True)
class PopeQuestion:
    """One question.

    Attributes:
        question_id: unique in its file.
        image: the image's file name.
        text: the question.
        truth: whether the right answer is yes.
    """

    question_id: int
    image: str
    text: str
    truth: bool


@dataclass(frozen=True)
class QuestionFile:
    """A file of questions and its copy.

    Attributes:
        questions: in the file's order.
        copy: the split and copy, such as "coco random (2,910-row copy)"; the file's stem if unknown.
        known: whether it is one of `COPIES`.
        misspelt: number of questions with "imange".
    """

    questions: tuple[PopeQuestion, ...]
    copy: str
    known: bool
    misspelt: int

    @property
    def note(self) -> str | None:
        """How the copy differs from the official one, to be reported with the metrics; None if it does not."""
        said = []
        if self.known and len(self.questions) != OFFICIAL_ROWS:
            said.append(
                f"{len(self.questions):,} of the official {OFFICIAL_ROWS:,} questions, not comparable with them"
            )
        if not self.known:
            said.append("none of the known files")
        if self.misspelt:
            said.append(f"{self.misspelt} questions say {_TYPO!r}")
        return "; ".join(said) or None


def read_questions(path: str | Path) -> QuestionFile:
    """Read a question file: JSON lines or one array of `question_id`, `image`, `text` and `label`.

    Raises:
        EvalDataError: it cannot be read, a field is missing, a label is neither yes nor no, or an id occurs twice.
    """
    questions = []
    for number, row in enumerate(read_rows(path, "the questions"), 1):
        where = f"row {number} of {path}"
        label = str(field(row, ("label",), str, where)).strip().lower()
        if label not in ("yes", "no"):
            raise EvalDataError(f"{where} has the label {label!r}, expected 'yes' or 'no': give POPE's question file")
        questions.append(
            PopeQuestion(
                whole_number(row, ("question_id",), where),
                field(row, ("image",), str, where),
                field(row, ("text", "question"), str, where),
                label == "yes",
            )
        )
    refuse_doubles((one.question_id for one in questions), path, "question ids")
    name = COPIES.get(fingerprint(questions))
    misspelt = sum(_TYPO in one.text for one in questions)
    return QuestionFile(tuple(questions), name or Path(path).stem, name is not None, misspelt)


def fingerprint(questions: Sequence[PopeQuestion]) -> str:
    """Hash the (image, object, label) triples to 16 hexadecimal digits, whatever their order and spelling."""
    asked = sorted((Path(one.image).name, _object(one.text), one.truth) for one in questions)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:_HEX]


def join(questions: Sequence[PopeQuestion], texts: Sequence[str], parser: Parser) -> tuple[Answered, ...]:
    """Read the answer to every question; `texts` has one per question, in order (`evals.yesno.pope_answers`)."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.image for one in questions))}
    return tuple(
        answered(numbers[one.image], one.truth, text, parser) for one, text in zip(questions, texts, strict=True)
    )


def _object(text: str) -> str:
    found = _OBJECT.search(text)
    return found[1].strip().lower() if found else text.strip().lower()
