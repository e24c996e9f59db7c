"""Measure a fit on pictures that it did not see: cross-validation over pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from evals.choice.judged import Judged
from grounding.methods import Method

FOLDS = 5

Fit = Callable[[Sequence[Judged]], Method]
"""From judged answers to the method that was fitted on them."""

Apply = Callable[[Sequence[Judged], Method], list[Judged]]
"""The same answers by another method."""


def folds(answers: Sequence[Judged], count: int = FOLDS) -> list[tuple[list[Judged], list[Judged]]]:
    """Split answers by picture.

    Pictures are dealt out in the order of a hash of their numbers, so that folds are of equal size and do not depend on
    the order of the answers.

    Args:
        answers: of any pictures.
        count: of folds; fewer where there are fewer pictures.

    Returns:
        Per fold the answers of all other folds and its own, each in the order given. Empty for less than two pictures.
    """
    dealt = sorted({one.picture for one in answers}, key=_shuffled)
    count = min(count, len(dealt))
    if count < 2:
        return []
    fold = {picture: place % count for place, picture in enumerate(dealt)}
    return [
        ([one for one in answers if fold[one.picture] != own], [one for one in answers if fold[one.picture] == own])
        for own in range(count)
    ]


def cross_validated(answers: Sequence[Judged], fit: Fit, apply: Apply, count: int = FOLDS) -> list[Judged]:
    """Answer every question by a method that was fitted on the other folds' pictures.

    Args:
        answers: with candidates, for all questions.
        fit: fits a method.
        apply: answers by it.
        count: of folds.

    Returns:
        The answers, fold by fold; none where there are less than two pictures.

    Raises:
        EvalDataError: the answers of the other folds are too few for the fit.
    """
    return [answer for others, own in folds(answers, count) for answer in apply(own, fit(others))]


def _shuffled(picture: int) -> bytes:
    return hashlib.blake2b(f"fold {picture}".encode(), digest_size=8).digest()
