"""AMBER's discriminative metrics, by the authors' script: "No" is the positive class.

Only the exact strings "Yes" and "No" are answers; everything else is wrong and does not count as "No". Precision,
recall and F1 are those of "No", so they measure how well hallucinations are denied. The right answer of every existence
question is "No", so precision is 100 % there by construction. F1 is computed from the rounded precision and recall with
a small number in the denominator, as in the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.amber.annotations import DIMENSIONS, Dimension, Statement

# The script starts every count of questions and of "No" answers from this value to avoid a division by zero.
START = 0.001
_ATTRIBUTE: tuple[Dimension, ...] = ("state", "number", "action")
GROUPS: dict[str, tuple[Dimension, ...]] = {
    "all": DIMENSIONS,
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
    """One question and its answer; `says` is None if the answer is neither "Yes" nor "No"."""

    statement: Statement
    says: bool | None


@dataclass(frozen=True)
class DiscriminativeScore:
    """Metrics over questions in percent, rounded to one decimal as in the script.

    Attributes:
        n: number of questions.
        unread: answers that are neither "Yes" nor "No".
        accuracy: share of right answers.
        precision: share of the answers "No" that are right.
        recall: share of the questions whose right answer is "No" that were answered so.
        f1: harmonic mean of precision and recall.
    """

    n: int
    unread: int
    accuracy: float
    precision: float
    recall: float
    f1: float


def read_verdict(statement: Statement, response: str) -> Verdict:
    """Read an answer by the script's rule."""
    return Verdict(statement, {"Yes": True, "No": False}.get(response))


def score_verdicts(verdicts: Sequence[Verdict], *, existence: bool = False) -> DiscriminativeScore:
    """Compute the metrics over answers.

    Args:
        verdicts: one per question.
        existence: whether these are the existence questions; their F1 has another constant in the denominator.
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
    """Score all questions, and each group of `GROUPS` that has any."""
    found = {}
    for name, dimensions in GROUPS.items():
        mine = [one for one in verdicts if one.statement.dimension in dimensions]
        if mine:
            found[name] = score_verdicts(mine, existence=name == "existence")
    return found


def amber_score(chair: float, f1: float) -> float:
    """Compute the AMBER score: the mean of 100 - CHAIR and F1, both in percent; higher is better (section 3.4)."""
    return (100 - chair + f1) / 2


def _percent(top: int, bottom: int) -> float:
    return round(top / (bottom + START) * 100, 1)
