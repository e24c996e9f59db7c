"""How good answers are and how well their confidence tells right from wrong: mIoU, AUROC, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.choice.judged import Judged
from evals.statistics import LEVEL, RESAMPLES, Interval, bootstrap, bootstrap_difference, mean_of
from grounding.candidates.confidence import RIGHT

BINS = 5
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence.

    Attributes:
        low: the bin's lower end.
        high: its upper end.
        n: how many.
        confidence: their mean confidence.
        right: the share of them that is right.
    """

    low: float
    high: float
    n: int
    confidence: float
    right: float


def auroc(scores: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """The chance that a right answer has a higher score than a wrong one, ties counted half; NaN without both."""
    flags = np.asarray(right, bool)
    return _auroc_of(_levels(scores), flags, np.ones(len(flags)))


def auroc_interval(scores: Sequence[float], right: Sequence[bool], pictures: Sequence[int], seed: int = 0) -> Interval:
    """The AUROC with its percentile bootstrap interval, resampled by picture.

    Resamples without both right and wrong answers are left out.
    """
    levels, flags = _levels(scores), np.asarray(right, bool)
    names, groups = np.unique(pictures, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        drawn[resample] = _auroc_of(levels, flags, times[groups])
    kept = drawn[~np.isnan(drawn)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail]) if len(kept) else (float("nan"), float("nan"))
    return Interval(auroc(scores, right), float(low), float(high))


def _levels(scores: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Number the different scores from the lowest, [N]; all that an AUROC is made of."""
    return np.unique(np.asarray(scores, np.float64), return_inverse=True)[1]


def _auroc_of(levels: npt.NDArray[np.intp], right: npt.NDArray[np.bool_], times: npt.NDArray[Any]) -> float:
    """The AUROC of answers [N] that each occur some number of `times` [N]."""
    good, bad = (np.bincount(levels, times * flags) for flags in (right, ~right))
    pairs = good.sum() * bad.sum()
    return float(good @ (np.cumsum(bad) - bad / 2) / pairs) if pairs else float("nan")


def reliability(scores: Sequence[float], right: Sequence[bool], bins: int = BINS) -> tuple[Bin, ...]:
    """Gather answers by equal steps of confidence; empty bins are left out."""
    values, flags = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    at = np.clip((values * bins).astype(int), 0, bins - 1)
    return tuple(
        Bin(index / bins, (index + 1) / bins, int(mine.sum()), float(values[mine].mean()), float(flags[mine].mean()))
        for index in range(bins)
        if (mine := at == index).any()
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of confidence and share of right answers, weighted by the bins' answers (Guo et al., 2017)."""
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.confidence - one.right) for one in bins) / total if total else float("nan")


def kind_scores(answers: Sequence[Judged], points: Sequence[Judged] | None, seed: int = 0) -> dict[str, Any]:
    """Score the answers of one kind of candidates, as JSON data.

    Args:
        answers: of the kind.
        points: those of the kind `points` to the same questions, to compare with; None for no comparison.
        seed: of the bootstrap.

    Returns:
        `n` questions for something that is there and `absent` for something that is not; `miou`, and of the best
        candidates that there were, `best_miou`; `minus_points`, paired; `right`: share of answers with an IoU of at
        least 0.5; `auroc` of the confidence and of the segmenter's own estimate, over what is there and over all
        questions; the reliability of the confidence over all questions.
    """
    there = [one for one in answers if one.present]
    groups = [one.picture for one in there]
    miou = mean_of([one.iou for one in there], groups)
    data: dict[str, Any] = {
        "n": len(there),
        "absent": len(answers) - len(there),
        "miou": _bounds(bootstrap(miou, seed=seed)),
        "best_miou": _bounds(
            bootstrap(mean_of([float(max(one.ious, default=0.0)) for one in there], groups), seed=seed)
        ),
        "right": _bounds(bootstrap(mean_of([float(one.iou >= RIGHT) for one in there], groups), seed=seed)),
    }
    if points is not None:
        other = mean_of([one.iou for one in points if one.present], [one.picture for one in points if one.present])
        data["minus_points"] = _bounds(bootstrap_difference(miou, other, seed=seed))
    data["auroc"] = {
        name: {who: _auroc(some, name, seed) for who, some in (("present", there), ("all", answers))}
        for name in ("confidence", "estimate")
    }
    sure = [one for one in answers if one.confidence is not None]
    bins = reliability([one.confidence or 0.0 for one in sure], [one.iou >= RIGHT for one in sure]) if sure else ()
    data["reliability"] = [
        vars(one) | {"confidence": round(one.confidence, 4), "right": round(one.right, 4)} for one in bins
    ]
    data["calibration_error"] = round(calibration_error(bins), 4) if bins else None
    return data


def _auroc(answers: Sequence[Judged], name: str, seed: int) -> list[float] | None:
    """[value, low, high]; None without both right and wrong answers that have the score."""
    used = [one for one in answers if getattr(one, name) is not None]
    right = [one.iou >= RIGHT for one in used]
    if len(set(right)) < 2:
        return None
    return _bounds(auroc_interval([getattr(one, name) for one in used], right, [one.picture for one in used], seed))


def _bounds(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]
