"""AMBER's discriminative figures, by the authors' script: no is the positive class.

Only "Yes" and "No", letter for letter, are answers; everything else is wrong, and is no "No". Precision, recall and F1
are of "No", so that they say how well hallucinations are denied; every existence question is to be answered with "No",
which makes its precision 100 % whatever is answered. F1 is taken from the rounded precision and recall with a small
number in the denominator, as the script does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.amber.annotations import Dimension, Statement

# The script starts every count of questions and of "No" answers from here, so as not to divide by zero.
START = 0.001
_ATTRIBUTE: tuple[Dimension, ...] = ("state", "number", "action")
GROUPS: dict[str, tuple[Dimension, ...]] = {
    "all": ("existence", "state", "number", "action", "relation"),
    "existence": ("existence",),
    "attribute": _ATTRIBUTE,
    "state": ("state",),
    "number": ("number",),
    "action": ("action",),
    "relation": ("relation",),
}
_EXISTENCE_F1, _OTHER_F1 = 0.001, 0.0001


@dataclass(frozen=True)
class Verdict:
    """One question and its answer; `says` is None for what is neither "Yes" nor "No"."""

    statement: Statement
    says: bool | None


@dataclass(frozen=True)
class DiscriminativeScore:
    """Figures over questions in percent, rounded to one decimal as the script prints them.

    Attributes:
        n: questions.
        unread: answers that were neither "Yes" nor "No".
        accuracy: right answers, of all.
        precision: of the answers "No", those that are right.
        recall: of the questions to be answered with "No", those that were.
        f1: of the two.
    """

    n: int
    unread: int
    accuracy: float
    precision: float
    recall: float
    f1: float


def read_verdict(statement: Statement, response: str) -> Verdict:
    """An answer by the script's rule."""
    return Verdict(statement, {"Yes": True, "No": False}.get(response))


def score_verdicts(verdicts: Sequence[Verdict], *, existence: bool = False) -> DiscriminativeScore:
    """The figures over answers.

    Args:
        verdicts: question by question.
        existence: whether these are the existence questions, whose F1 has another small number.
    """
    right = sum(one.says is one.statement.truth for one in verdicts)
    denied = [one for one in verdicts if one.says is False]
    deniable = sum(not one.statement.truth for one in verdicts)
    hit = sum(not one.statement.truth for one in denied)
    precision, recall = _percent(hit, len(denied)), _percent(hit, deniable)
    p, r = precision / 100, recall / 100
    f1 = round(2 * p * r / (p + r + (_EXISTENCE_F1 if existence else _OTHER_F1)) * 100, 1)
    unread = sum(one.says is None for one in verdicts)
    return DiscriminativeScore(len(verdicts), unread, _percent(right, len(verdicts)), precision, recall, f1)


def score_groups(verdicts: Sequence[Verdict]) -> dict[str, DiscriminativeScore]:
    """The figures of all questions and of each dimension that was asked about."""
    found = {}
    for name, dimensions in GROUPS.items():
        mine = [one for one in verdicts if one.statement.dimension in dimensions]
        if mine:
            found[name] = score_verdicts(mine, existence=name == "existence")
    return found


def amber_score(chair: float, f1: float) -> float:
    """AMBER's one number: the mean of 100 - CHAIR and F1, both in percent; higher is better (section 3.4)."""
    return (100 - chair + f1) / 2


def _percent(top: int, bottom: int) -> float:
    return round(top / (bottom + START) * 100, 1)
