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
    from scipy.stats import rankdata

    flags = np.asarray(right, bool)
    good, bad = int(flags.sum()), int((~flags).sum())
    if not good or not bad:
        return float("nan")
    ranks = rankdata(np.asarray(scores, np.float64))
    return float((ranks[flags].sum() - good * (good + 1) / 2) / (good * bad))


def auroc_interval(scores: Sequence[float], right: Sequence[bool], pictures: Sequence[int], seed: int = 0) -> Interval:
    """The AUROC with its percentile bootstrap interval, resampled by picture.

    Resamples without both right and wrong answers are left out.
    """
    values, flags, groups = np.asarray(scores, np.float64), np.asarray(right, bool), np.asarray(pictures)
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(groups == picture) for picture in np.unique(groups)]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rows[index] for index in rng.integers(len(rows), size=len(rows))])
        drawn.append(auroc(values[chosen], flags[chosen]))
    kept = np.array(drawn)[~np.isnan(drawn)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail]) if len(kept) else (float("nan"), float("nan"))
    return Interval(auroc(values, flags), float(low), float(high))


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
