"""Read answers to POPE's questions in the forms in which they are published, and give each question its answer.

* With ids: `question_id` and `answer` (or `text`, ...), in any order; as VCD and most others write them.
* In order: `question` and `answer` without an id, one row per question of the file, as POPE's authors write them. The
  questions are compared, so that answers to other questions are not taken for these.
* One file for all splits, as LLaVA writes it: rows in the order of the question files, whose ids count over all of them
  and whose `prompt` is the question; or rows that name their split in `category`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from evals.inputs import field, listed, number_of, read_rows, refuse_doubles, refuse_empty, whole_number
from evals.yesno.pope import PopeQuestion, QuestionFile
from grounding.errors import EvalDataError

ANSWER_NAMES = ("answer", "text", "response", "ans", "prediction", "output")
_ID_NAMES = ("question_id", "id")
_QUESTION_NAMES = ("question", "prompt", "query")
_SPLIT_NAMES = ("category", "split")
_WORDS = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class PopeAnswer:
    """One row of a file of answers.

    Attributes:
        question_id: the question's; None without one.
        question: the question as it was asked; empty if the row does not repeat it.
        split: the split that the row names; empty without one.
        text: the answer.
    """

    question_id: int | None
    question: str
    split: str
    text: str


def read_answers(path: str | Path) -> tuple[PopeAnswer, ...]:
    """Read a file of answers: JSON lines, objects one after another, or one array.

    Raises:
        EvalDataError: it cannot be read, a row has no answer or neither an id nor a question, or all answers are empty.
    """
    answers = []
    for number, row in enumerate(read_rows(path, "the answers"), 1):
        where = f"row {number} of {path}"
        question, split = (
            next((str(row[name]) for name in names if isinstance(row.get(name), str)), "")
            for names in (_QUESTION_NAMES, _SPLIT_NAMES)
        )
        id = next((row[name] for name in _ID_NAMES if name in row), None)
        if id is None and not question:
            raise EvalDataError(
                f"{where} has neither 'question_id' nor 'question', only {listed(row)}: add one of them"
            )
        if id is not None and number_of(id) is None:
            whole_number(row, _ID_NAMES, where)  # refuses it by name
        # LLaVA's rows have the question in `prompt` and the answer in `text`.
        answers.append(PopeAnswer(number_of(id), question, split, field(row, ANSWER_NAMES, str, where)))
    refuse_empty([one.text for one in answers], path)
    return tuple(answers)


def answers_by_file(
    files: Sequence[QuestionFile], answers: Sequence[PopeAnswer], where: str | Path
) -> tuple[tuple[PopeAnswer, ...], ...]:
    """Divide one file of answers among several question files.

    Args:
        files: the question files, at least one.
        answers: of all of them.
        where: source of the answers, for messages.

    Raises:
        EvalDataError: neither a named split nor order, number and wording say which answers belong to which file.
    """
    if len(files) == 1:
        return (tuple(answers),)
    named = [_splits(one.split, files) for one in answers]
    if all(len(splits) == 1 for splits in named):
        return tuple(
            tuple(one for one, splits in zip(answers, named, strict=True) if splits[0] == number)
            for number in range(len(files))
        )
    wanted = sum(len(file.questions) for file in files)
    if wanted == len(answers):
        for order in permutations(range(len(files))):
            parts: dict[int, tuple[PopeAnswer, ...]] = {}
            at = 0
            for number in order:
                parts[number] = tuple(answers[at : at + len(files[number].questions)])
                at += len(files[number].questions)
            if all(_asked(files[number].questions, part) for number, part in parts.items()):
                return tuple(parts[number] for number in range(len(files)))
    raise EvalDataError(
        f"{where} has {len(answers)} answers to the {wanted} questions of {len(files)} files, and neither 'category' "
        "nor the questions' order and wording say which belong to which: give one file of answers per question file, "
        "or add 'category' or 'prompt' to the rows"
    )


def texts_of(questions: Sequence[PopeQuestion], answers: Sequence[PopeAnswer], where: str | Path) -> tuple[str, ...]:
    """The answer to each question, by id, or by order where ids are missing or count over other files too.

    Raises:
        EvalDataError: a question has no answer, an answer has no question, or an id occurs twice.
    """
    ids = {one.question_id for one in questions}
    said = [one.question_id for one in answers]
    if None not in said and (set(said) == ids or not _asked(questions, answers)):
        refuse_doubles(said, where, "question ids")
        missing, strange = sorted(ids - set(said)), sorted({id for id in said if id is not None} - ids)
        if missing or strange:
            raise EvalDataError(
                f"{where}: {len(missing)} of {len(ids)} questions have no answer ({listed(missing)}) and "
                f"{len(strange)} answers have no question ({listed(strange)}): give the answers that belong to these "
                "questions, all of them"
            )
        texts = {one.question_id: one.text for one in answers}
        return tuple(texts[one.question_id] for one in questions)
    if len(answers) != len(questions):
        raise EvalDataError(
            f"{where} has {len(answers)} answers without ids to {len(questions)} questions, expected one per question, "
            "in order: add 'question_id', or give all of them"
        )
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 1):
        if not _same(question.text, answer.question):
            raise EvalDataError(
                f"row {number} of {where} answers {answer.question!r:.80}, but question {number} is "
                f"{question.text!r:.80}: give the answers to these questions, in their order, or add 'question_id'"
            )
    return tuple(one.text for one in answers)


def _splits(name: str, files: Sequence[QuestionFile]) -> list[int]:
    """The files whose split a row can mean."""
    return [number for number, file in enumerate(files) if name and name.lower() in file.copy.lower()]


def _asked(questions: Sequence[PopeQuestion], answers: Sequence[PopeAnswer]) -> bool:
    """Whether answers stand in the order of the questions and repeat them."""
    return len(questions) == len(answers) and all(
        _same(question.text, answer.question) for question, answer in zip(questions, answers, strict=True)
    )


def _same(question: str, asked: str) -> bool:
    """Whether a question was asked in these words, perhaps with a suffix; "imange" is the same word as "image"."""
    one, other = (_WORDS.findall(text.lower().replace("imange", "image")) for text in (question, asked))
    return bool(other) and other[: len(one)] == one
