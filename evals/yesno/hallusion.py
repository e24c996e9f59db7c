"""Read and score HallusionBench: yes-no questions, scored per row, per question and per figure.

Guan et al., "HallusionBench", CVPR 2024, and its released `utils.py`. Each row asks one question about one figure; a
question has variants over figures (original, edited, or none), a figure has several questions. The authors use a GPT-4
judge that says correct, incorrect or unclear. Such verdicts can be scored as they are; or the answer's own yes or no is
compared with the truth, without a judge, as in VLMEvalKit.

An unclear answer is wrong, except to a question of category "VS" asked without a figure: there the model cannot know,
and an unclear answer is right.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evals.inputs import field, read_rows, refuse_doubles, refuse_empty
from evals.statistics import Interval, bootstrap, mean_of
from evals.yesno.parsers import Parser
from grounding.errors import EvalDataError

Verdict = Literal["correct", "incorrect", "unclear"]
# The authors' files encode verdicts, and predictions, as digits.
_VERDICTS: Mapping[str, Verdict] = {"0": "incorrect", "1": "correct", "2": "unclear"}
_READY: Mapping[str, bool | None] = {"0": False, "1": True, "2": None}
NO_FIGURE, EDITED = "0", "2"


@dataclass(frozen=True)
class HallusionRow:
    """One answered question about one figure.

    Attributes:
        category: "VD" (visual dependent) if the answer depends on the figure, "VS" if the figure is a supplement.
        subcategory: chart, illusion, ...
        set_id: the group of figures.
        figure_id: "0" for the original figure; in "VS" for no figure.
        question_id: the question within its set.
        visual_input: "0" no figure, "1" an original one, "2" an edited one.
        verdict: on the answer.
    """

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: str
    verdict: Verdict

    @property
    def has_image(self) -> bool:
        """Whether a figure was shown."""
        return self.visual_input != NO_FIGURE

    @property
    def hard(self) -> bool:
        """Whether the authors count the row as hard: its figure was edited."""
        return self.visual_input == EDITED

    @property
    def right(self) -> bool:
        """Whether the answer counts as right."""
        unsure_is_right = self.category == "VS" and self.figure_id == NO_FIGURE
        return self.verdict == "correct" or (unsure_is_right and self.verdict == "unclear")

    @property
    def group(self) -> tuple[str, str, str]:
        """The group of figures, the unit of resampling: its rows are not independent."""
        return (self.category, self.subcategory, self.set_id)


@dataclass(frozen=True)
class HallusionScore:
    """Metrics over rows, fractions with intervals over groups of figures; None where there are no rows.

    Attributes:
        n: number of rows.
        unclear: answers without a clear yes or no, or judged unclear.
        a_acc: share of right rows.
        q_acc: share of questions answered right in every variant.
        f_acc: share of figures with every question right; rows of "VS" without a figure are left out.
        easy_q_acc: q_acc over the rows without a figure or with an original one.
        hard_q_acc: q_acc over the rows with an edited figure.
    """

    n: int
    unclear: int
    a_acc: Interval | None
    q_acc: Interval | None
    f_acc: Interval | None
    easy_q_acc: Interval | None
    hard_q_acc: Interval | None


def read_results(
    path: str | Path, parser: Parser, *, answer: str, verdict: str | None = None
) -> tuple[HallusionRow, ...]:
    """Read the authors' result file: `HallusionBench.json` with one more field.

    Args:
        path: JSON array or lines.
        parser: rule that reads yes or no from an answer.
        answer: name of the field with the answer: text, or "0", "1", "2" for no, yes, unclear.
        verdict: name of the field with a judge's verdict, "0", "1", "2" for incorrect, correct, unclear; if given,
            answers are not read.

    Raises:
        EvalDataError: it cannot be read, a field is missing or wrong, or a question of a figure occurs twice.
    """
    found = read_rows(path, "the results")
    if verdict is None:
        refuse_empty([str(row[answer]) for row in found if answer in row], path)
    rows = [
        read_row(row, parser, f"row {number} of {path}", answer=answer, verdict=verdict)
        for number, row in enumerate(found, 1)
    ]
    refuse_double_rows(rows, path)
    return tuple(rows)


def read_row(
    row: Mapping[str, Any], parser: Parser, where: str, *, answer: str, verdict: str | None = None
) -> HallusionRow:
    """Read one row of the authors' file; see `read_results`.

    Raises:
        EvalDataError: a field is missing or wrong.
    """
    keys = [_text(row, name, where) for name in ("category", "subcategory", "set_id", "figure_id", "question_id")]
    if keys[0] not in ("VD", "VS"):
        raise EvalDataError(f"{where} has the category {keys[0]!r}, expected 'VD' or 'VS': give HallusionBench's rows")
    found = _judged(row, verdict, where) if verdict else _compared(row, answer, parser, where)
    return HallusionRow(keys[0], keys[1], keys[2], keys[3], keys[4], _visual(row, where), found)


def refuse_double_rows(rows: Sequence[HallusionRow], path: str | Path) -> None:
    """Refuse a question of a figure that occurs twice.

    Raises:
        EvalDataError: naming the first.
    """
    refuse_doubles(((*one.group, one.figure_id, one.question_id) for one in rows), path, "questions of a figure")


def score_rows(rows: Sequence[HallusionRow], *, seed: int = 0) -> HallusionScore:
    """Compute the metrics over rows."""
    figures = [one for one in rows if not (one.category == "VS" and one.figure_id == NO_FIGURE)]
    return HallusionScore(
        n=len(rows),
        unclear=sum(one.verdict == "unclear" for one in rows),
        a_acc=_whole(rows, lambda one: (*one.group, one.figure_id, one.question_id), seed),
        q_acc=_whole(rows, _question, seed),
        f_acc=_whole(figures, lambda one: (*one.group, one.figure_id), seed),
        easy_q_acc=_whole([one for one in rows if not one.hard], _question, seed),
        hard_q_acc=_whole([one for one in rows if one.hard], _question, seed),
    )


def _question(row: HallusionRow) -> Hashable:
    return (*row.group, row.question_id)


def _whole(rows: Sequence[HallusionRow], key: Any, seed: int) -> Interval | None:
    """The share of keys whose rows are all right; None without rows."""
    if not rows:
        return None
    right: dict[Hashable, bool] = {}
    groups: dict[Hashable, tuple[str, str, str]] = {}
    for row in rows:
        right[key(row)] = right.get(key(row), True) and row.right
        groups[key(row)] = row.group
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    where = np.array([numbers[groups[one]] for one in right], np.int64)
    return bootstrap(mean_of(list(right.values()), where), seed=seed)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise EvalDataError(f"{where} has no {name!r}: give HallusionBench's own rows with the answers added")
    return str(value)


def _visual(row: Mapping[str, Any], where: str) -> str:
    value = _text(row, "visual_input", where)
    if value not in ("0", "1", "2"):
        raise EvalDataError(
            f"{where} has the visual_input {value!r:.60}, expected 0 (no figure), 1 (original) or 2 (edited): give "
            "HallusionBench's own rows"
        )
    return value


def _judged(row: Mapping[str, Any], name: str, where: str) -> Verdict:
    value = _text(row, name, where)
    if value not in _VERDICTS:
        raise EvalDataError(
            f"{where}: {name!r} is {value!r:.60}, expected 0 (incorrect), 1 (correct) or 2 (unclear): mend it"
        )
    return _VERDICTS[value]


def _compared(row: Mapping[str, Any], name: str, parser: Parser, where: str) -> Verdict:
    truth = _text(row, "gt_answer", where)
    if truth not in ("0", "1"):
        raise EvalDataError(f"{where} has the truth {truth!r}, expected '0' or '1': give HallusionBench's own rows")
    answer = field(row, (name,), str, where) if not isinstance(row.get(name), int) else str(row[name])
    said = _READY[answer.strip()] if answer.strip() in _READY else parser.read(answer).says_yes
    if said is None:
        return "unclear"
    return "correct" if said == (truth == "1") else "incorrect"
