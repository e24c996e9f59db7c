"""Fit a confidence, and the weights of the choice, on judged answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evals.choice.folds import folds
from evals.choice.judged import Judged
from grounding.candidates.confidence import RIGHT, SIGNALS, Confidence, Signals
from grounding.candidates.rule import Weights
from grounding.errors import EvalDataError

Doubles = npt.NDArray[np.float64]
DIGITS = 4
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_LOWER = (None, 0.0)
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "size": (None, None),
    **dict.fromkeys(("held", "border", "edge", "background"), _LOWER),
}


def fit_confidence(
    answers: Sequence[Judged], model: str, segmenter: str, candidates: str, what: str, strength: float = 3.0
) -> Confidence:
    """Fit the probability that an answer is right, by logistic regression with a ridge and known signs.

    Signals are scaled to a standard deviation of 1 for the fit, so that the ridge treats them alike.

    Args:
        answers: with signals; an answer for something that is not there is wrong.
        model: name of the model.
        segmenter: name of the segmenter.
        candidates: the kind of candidates.
        what: the answers in words, for the file.
        strength: of the ridge: half the squared length of the weights of the scaled signals, without the intercept,
            times this is added to the negative log-likelihood, summed over answers.

    Raises:
        EvalDataError: all answers are right, or all are wrong.

    Notes:
        The ridge and the signs are our choice, for the few pictures with masks that most people have: agreement,
        estimate, lead and the like may only raise the confidence; the map's background, being a part of another
        candidate, and touching or filling the picture's borders may only lower it; the size may do either. On 50
        answers about photos free signs gave some that made no sense. The ridge was chosen among 3, 10 and 30 by
        cross-validation on 199 answers.
    """
    from scipy.optimize import minimize

    used = [(one.signals, one.present and one.iou >= RIGHT) for one in answers if one.signals is not None]
    right = np.array([flag for _, flag in used], np.float64)
    if len(used) == 0 or right.min() == right.max():
        raise EvalDataError(
            f"{len(used)} answers, {int(right.sum())} of them right: a confidence needs right and wrong ones, so give "
            "more pictures"
        )
    table = np.stack([signals.array() for signals, _ in used])
    mean, spread = table.mean(axis=0), table.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = (table - mean) / spread

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        odds = parameters[0] + scaled @ parameters[1:]
        wrong = 1 / (1 + np.exp(-odds)) - right
        value = np.logaddexp(0, odds).sum() - right @ odds + strength / 2 * (parameters[1:] @ parameters[1:])
        slope = np.concatenate([[wrong.sum()], wrong @ scaled + strength * parameters[1:]])
        return float(value), slope

    bounds = [(None, None), *(_BOUNDS.get(name, (0.0, None)) for name in SIGNALS)]
    found = minimize(loss, np.zeros(1 + len(SIGNALS)), jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = found[1:] / spread
    return Confidence(
        model=model,
        segmenter=segmenter,
        candidates=candidates,
        intercept=round(float(found[0] - weights @ mean), DIGITS),
        weights=Signals(*(round(float(one), DIGITS) for one in weights)),
        fitted_on=what,
    )


def fit_weights(answers: Sequence[Judged], start: Weights, strength: float) -> Weights:
    """Fit the weights of the choice: the largest expected IoU of a candidate drawn by the softmax of the scores.

    Args:
        answers: with candidates; only those for something that is there are used.
        start: the weights that are kept where the answers say nothing else.
        strength: of the ridge: half the squared distance from `start`, for features scaled to a standard deviation of
            1, times this is taken from the mean expected IoU.

    Raises:
        EvalDataError: there is no answer with candidates.

    Notes:
        The objective is our choice. It counts what is wanted, the IoU, and unlike a regression of the IoU it does not
        care how candidates compare that nobody would choose.
    """
    from scipy.optimize import minimize

    used = [one for one in answers if one.present and len(one.ious)]
    if not used:
        raise EvalDataError("no answer has candidates: give more pictures")
    every = np.concatenate([one.features for one in used]).astype(np.float64)
    spread = every.std(axis=0)
    spread[spread < 1e-9] = 1.0
    tables = [(one.features.astype(np.float64) / spread, one.ious.astype(np.float64)) for one in used]

    kept = start.array().astype(np.float64) * spread

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        moved = weights - kept
        value, slope = strength / 2 * float(moved @ moved), strength * moved
        for table, ious in tables:
            scores = table @ weights
            drawn = np.exp(scores - scores.max())
            drawn /= drawn.sum()
            expected = float(drawn @ ious)
            value -= expected / len(tables)
            slope = slope - (drawn * (ious - expected)) @ table / len(tables)
        return value, slope

    found = minimize(loss, kept, jac=True, method="L-BFGS-B").x / spread
    return Weights(*(round(float(one), DIGITS) for one in found))


def choose_strength(answers: Sequence[Judged], start: Weights, strengths: Sequence[float] = STRENGTHS) -> float:
    """Choose the ridge of `fit_weights` by cross-validation over pictures.

    Args:
        answers: with candidates.
        start: see `fit_weights`.
        strengths: to choose from.

    Returns:
        The one with the largest mean IoU of the candidate that is chosen in pictures left out; of equal ones the
        largest, and the largest of all where there are less than two pictures.
    """
    used = [one for one in answers if one.present and len(one.ious)]
    parts = folds(used)
    if not parts:
        return max(strengths)
    means = {
        strength: sum(_chosen(own, fit_weights(others, start, strength)) for others, own in parts)
        for strength in strengths
    }
    return max(means, key=lambda strength: (round(means[strength], 9), strength))


def _chosen(answers: Sequence[Judged], weights: Weights) -> float:
    """The sum of the IoUs of the candidates that weights choose; spatial words and specks are left out."""
    return sum(float(one.ious[int(np.argmax(one.features @ weights.array()))]) for one in answers)
