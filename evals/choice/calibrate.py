"""Fit the choice among candidates and its confidence on judged answers, and measure both on pictures left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.choice.fitting import DIGITS, choose_strength, fit_confidence, fit_weights
from evals.choice.folds import cross_validated
from evals.choice.judged import Judged, ranked_again, with_confidence
from grounding.candidates.fitted import FittedWith
from grounding.candidates.rule import CandidateRule, Weights
from grounding.errors import EvalDataError
from grounding.methods import Method


@dataclass(frozen=True)
class Calibration:
    """A fitted method, and its answers.

    Attributes:
        method: with what was fitted on all answers.
        answers: by that method, about the pictures that it was fitted on.
        unseen: by methods that were fitted in the same way on the other folds' pictures; None where the pictures are
            too few.
    """

    method: Method
    answers: tuple[Judged, ...]
    unseen: tuple[Judged, ...] | None


@dataclass(frozen=True)
class Calibrator:
    """How a method is fitted.

    Attributes:
        start: the method; its weights, or the default ones where its own do not hold, are those that are kept where the
            answers say nothing else.
        model: name of the model.
        segmenter: name of the segmenter.
        what: the answers in words, for the file.
        weights: also fit the weights of the choice.
        ask: puts the model's own answers among the signals.
    """

    start: Method
    model: str
    segmenter: str
    what: str
    weights: bool
    ask: Callable[[Sequence[Judged]], list[Judged]]

    def __call__(self, answers: Sequence[Judged]) -> Calibration:
        """Fit on all answers, and on all but one fold for every fold.

        Args:
            answers: with candidates.

        Raises:
            EvalDataError: there are too few answers, or all are right or wrong.
        """
        method = self.fit(answers)
        try:
            unseen = tuple(cross_validated(answers, self.fit, self.apply))
        except EvalDataError:
            unseen = ()
        return Calibration(method, tuple(self.apply(answers, method)), unseen or None)

    def fit(self, answers: Sequence[Judged]) -> Method:
        """The method fitted on answers."""
        method = self.start
        if self.weights:
            rule = method.candidates.holding_for(self.model, self.segmenter)
            found = fit_weights(answers, rule.weights, choose_strength(answers, rule.weights))
            fitted_with = FittedWith(self.model, self.segmenter, rule.kind)
            method = replace(method, candidates=refitted(rule, found, answers, self.what, fitted_with))
            answers = ranked_again(answers, method)
        kind = method.candidates.kind
        return replace(
            method, confidence=fit_confidence(self.ask(answers), self.model, self.segmenter, kind, self.what)
        )

    def apply(self, answers: Sequence[Judged], method: Method) -> list[Judged]:
        """The same candidates, chosen by a fitted method."""
        chosen = ranked_again(answers, method) if self.weights else answers
        return with_confidence(self.ask(chosen), method)


def refitted(
    rule: CandidateRule, weights: Weights, answers: Sequence[Judged], what: str, fitted_with: FittedWith
) -> CandidateRule:
    """A rule with other weights, under which spatial words keep their influence.

    `place` and `margin` are differences of scores, so both grow with the scores' spread: the mean over the answers of
    the standard deviation among the candidates of one.

    Args:
        rule: with the weights so far.
        weights: the new ones.
        answers: with candidates.
        what: what they were fitted on, in words.
        fitted_with: what they hold for.
    """
    old, new = (
        float(np.mean([np.std(one.features @ each.array()) for one in answers if one.ranking]))
        for each in (rule.weights, weights)
    )
    factor = new / old if old > 0 else 1.0
    return replace(
        rule,
        weights=weights,
        weights_fitted_on=what,
        weights_fitted_with=fitted_with,
        place=round(rule.place * factor, DIGITS),
        margin=round(rule.margin * factor, DIGITS),
    )
