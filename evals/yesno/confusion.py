"""Compute accuracy, precision, recall, F1 and yes-ratio of yes-no answers, with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from evals.report import percent
from evals.statistics import Interval, RatioOfSums, bootstrap_all, mean_of
from evals.yesno.parsers import Parser

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "accuracy": True,
    "precision": True,
    "recall": True,
    "f1": True,
    "yes_ratio": None,  # best at the share of questions whose right answer is yes
}


@dataclass(frozen=True)
class Answered:
    """One question with its truth and its parsed answer.

    Attributes:
        image: number of the image, for the bootstrap.
        truth: whether the right answer is yes.
        says_yes: the parsed answer; None if it is neither yes nor no.
        parsed: whether the answer itself decided (see `evals.yesno.parsers.Reading`).
    """

    image: int
    truth: bool
    says_yes: bool | None
    parsed: bool


@dataclass(frozen=True)
class YesNoScore:
    """Metrics over questions, yes being the positive class; fractions with intervals.

    Attributes:
        n: number of questions.
        unparsable: answers read by the parser's default, because they do not themselves decide.
        unread: unparsable answers that the parser reads as neither yes nor no; they are wrong.
        accuracy: share of right answers.
        precision: share of the answers yes that are right; 0 if there are none.
        recall: share of the questions whose right answer is yes that were answered so.
        f1: harmonic mean of precision and recall.
        yes_ratio: share of all questions answered yes.
    """

    n: int
    unparsable: int
    unread: int
    accuracy: Interval
    precision: Interval
    recall: Interval
    f1: Interval
    yes_ratio: Interval


def answered(image: int, truth: bool, answer: str, parser: Parser) -> Answered:
    """Read one answer by a parser's rule."""
    reading = parser.read(answer)
    return Answered(image, truth, reading.says_yes, reading.parsed)


def yes_no_ratios(answers: Sequence[Answered], *, unread_is_no: bool = True) -> dict[str, RatioOfSums]:
    """Compute the metrics as ratios of sums, by name.

    Args:
        answers: at least one.
        unread_is_no: whether an unread answer counts as a no in recall.
    """
    groups = np.array([one.image for one in answers], np.int64)
    truth = np.array([one.truth for one in answers])
    yes = np.array([one.says_yes is True for one in answers])
    no = np.array([one.says_yes is False or (one.says_yes is None and unread_is_no) for one in answers])
    right = np.array([one.says_yes is one.truth for one in answers])
    hit, false_alarm, missed = yes & truth, yes & ~truth, no & truth

    def ratio(tops: Any, bottoms: Any) -> RatioOfSums:
        return RatioOfSums(np.asarray(tops, np.float64), np.asarray(bottoms, np.float64), groups)

    return {
        "accuracy": mean_of(right, groups),
        "precision": ratio(hit, yes),
        "recall": ratio(hit, hit | missed),
        "f1": ratio(2.0 * hit, 2.0 * hit + false_alarm + missed),
        "yes_ratio": mean_of(yes, groups),
    }


def score_answers(answers: Sequence[Answered], *, unread_is_no: bool = True, seed: int = 0) -> YesNoScore:
    """Compute the metrics with intervals; see `yes_no_ratios`."""
    found = yes_no_ratios(answers, unread_is_no=unread_is_no)
    return YesNoScore(
        n=len(answers),
        unparsable=sum(not one.parsed for one in answers),
        unread=sum(one.says_yes is None for one in answers),
        **bootstrap_all(found, seed=seed),
    )


def yes_no_json(found: YesNoScore) -> dict[str, Any]:
    """Convert the metrics to percent by name, with intervals."""
    intervals = {one.name: getattr(found, one.name) for one in fields(found) if one.name in HIGHER_IS_BETTER}
    return {
        "n": found.n,
        "unparsable": found.unparsable,
        "unread": found.unread,
        **{name: percent(one.value) for name, one in intervals.items()},
        "intervals": {name: [percent(one.low), percent(one.high)] for name, one in intervals.items()},
    }
