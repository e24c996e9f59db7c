"""Confidence intervals and paired tests of ratios, resampled by image: scipy's, on per-image sums.

Notes:
    Every figure of the suite is a ratio of sums, so the sums per image are all that a bootstrap or a permutation needs:
    drawing images is drawing rows of these sums, whatever number of captions or questions an image has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 1 << 20  # resampled values in memory at a time
_DECIMALS = 12  # see `swap_test`

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RatioOfSums:
    """A statistic of the form sum(tops) / sum(bottoms); a mean has bottoms of 1.

    Attributes:
        tops: [N] float64.
        bottoms: [N] float64, 0 or more.
        groups: [N] int64, the image of each value. Values of one image are resampled together, because they are not
            independent (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 8).
    """

    tops: FloatArray
    bottoms: FloatArray
    groups: IntArray

    def __post_init__(self) -> None:
        if not (len(self.tops) == len(self.bottoms) == len(self.groups)) or len(self.tops) == 0:
            raise ValueError(
                "a ratio needs as many tops, bottoms and groups, at least one: got "
                f"{len(self.tops)}, {len(self.bottoms)}, {len(self.groups)}"
            )

    @property
    def value(self) -> float:
        """The ratio of the sums; 0 where the bottoms sum to 0."""
        return float(_divide(self.tops.sum(), self.bottoms.sum()))

    def sums(self, images: IntArray) -> tuple[FloatArray, FloatArray]:
        """Sum tops and bottoms per image, in the order of `images` (sorted); 0 for an image without values."""
        at = np.searchsorted(images, self.groups)
        tops, bottoms = (
            np.bincount(at, weights=weights, minlength=len(images)).astype(np.float64)
            for weights in (self.tops, self.bottoms)
        )
        return tops, bottoms


def mean_of(values: npt.ArrayLike, groups: npt.ArrayLike) -> RatioOfSums:
    """The mean of values [N] as a ratio of sums."""
    tops = np.asarray(values, np.float64)
    return RatioOfSums(tops, np.ones_like(tops), np.asarray(groups, np.int64))


def bootstrap(ratio: RatioOfSums, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Interval:
    """Estimate the percentile bootstrap interval of a ratio.

    Args:
        ratio: the statistic.
        resamples: number of resamples; each draws as many images as there are, with replacement.
        level: confidence level.
        seed: of the draws. They depend on the seed and the number of images alone.
    """
    return bootstrap_all({"": ratio}, resamples=resamples, level=level, seed=seed)[""]


def bootstrap_all(
    ratios: Mapping[str, RatioOfSums], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Estimate the intervals of several ratios over the same images from one set of draws.

    A resample is how often each image was drawn, so the sums of all ratios are one product of matrices.

    Args:
        ratios: the statistics by name, at least one.
        resamples: see `bootstrap`.
        level: see `bootstrap`.
        seed: see `bootstrap`.
    """
    from scipy import stats

    images = np.unique(np.concatenate([one.groups for one in ratios.values()]))
    count = len(images)
    if count == 1:  # every resample is the same image; scipy needs two observations
        return {name: Interval(one.value, one.value, one.value) for name, one in ratios.items()}
    sums = [one.sums(images) for one in ratios.values()]
    table = np.stack([*(tops for tops, _ in sums), *(bottoms for _, bottoms in sums)], axis=1)

    def statistic(drawn: IntArray, axis: int) -> FloatArray:
        times = np.stack([np.bincount(row, minlength=count) for row in np.atleast_2d(drawn)]).astype(np.float64)
        tops, bottoms = np.split(times @ table, 2, axis=1)
        return _divide(tops, bottoms).T  # [ratios, resamples]

    found = stats.bootstrap(
        (np.arange(count),),
        statistic,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        confidence_level=level,
        batch=_batch(count),
        rng=np.random.default_rng(seed),
    )
    lows, highs = found.confidence_interval
    return {
        name: Interval(one.value, float(low), float(high))
        for (name, one), low, high in zip(ratios.items(), np.atleast_1d(lows), np.atleast_1d(highs), strict=True)
    }


def bootstrap_difference(
    one: RatioOfSums, other: RatioOfSums, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Estimate the interval of `one - other`, both on the same resampled images, so that what they share cancels."""

    def statistic(a: FloatArray, c: FloatArray, b: FloatArray, d: FloatArray, axis: int) -> FloatArray:
        return _divide(a.sum(axis), c.sum(axis)) - _divide(b.sum(axis), d.sum(axis))

    images = np.union1d(one.groups, other.groups)
    value = one.value - other.value
    sums = (*one.sums(images), *other.sums(images))
    return Interval(value, *_percentiles(sums, statistic, value, resamples, level, seed))


def swap_test(one: RatioOfSums, other: RatioOfSums, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Test the difference of two ratios by a paired permutation test, two-sided.

    The null hypothesis is that the two runs are exchangeable on every image, so their values are swapped image by image
    (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, section 3).

    Args:
        one: values of one run.
        other: values of the other run, on the same images.
        resamples: number of random swaps; where all 2^images swaps are fewer, all of them are taken.
        seed: of the draws.

    Returns:
        The share of swaps whose difference is at least as large as the observed one in absolute value. Among random
        swaps the observed difference counts as one of the draws, so p is at least 1 / (resamples + 1).
    """
    from scipy import stats

    images = np.union1d(one.groups, other.groups)
    if len(images) == 1:
        return 1.0  # both swaps give the same absolute difference; scipy needs two observations
    (a, c), (b, d) = one.sums(images), other.sums(images)
    tops, bottoms = np.concatenate([a, b]), np.concatenate([c, d])

    def statistic(mine: IntArray, theirs: IntArray, axis: int) -> Any:
        # Equal differences whose sums were taken in another order differ in their last digits, and must count as equal.
        difference = _divide(tops[mine].sum(axis), bottoms[mine].sum(axis)) - _divide(
            tops[theirs].sum(axis), bottoms[theirs].sum(axis)
        )
        return np.round(np.abs(difference), _DECIMALS)

    rows = np.arange(len(images))  # swapping row numbers swaps an image's top and bottom together
    found = stats.permutation_test(
        (rows, rows + len(images)),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(len(images)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def sign_test(only_one: int, only_other: int) -> float:
    """McNemar's exact test, two-sided, from the numbers of items that only one of two runs has.

    1 where the runs never differ.
    """
    from scipy.stats import binomtest

    both = only_one + only_other
    return float(binomtest(only_one, both, 0.5).pvalue) if both else 1.0


def _percentiles(
    sums: tuple[FloatArray, ...], statistic: Any, value: float, resamples: int, level: float, seed: int
) -> tuple[float, float]:
    """The ends of the interval of a statistic of per-image sums, each [images]."""
    from scipy import stats

    count = len(sums[0])
    if count == 1:
        return value, value  # every resample is the same image; scipy needs two observations
    found = stats.bootstrap(
        sums,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        confidence_level=level,
        batch=_batch(count),
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _batch(images: int) -> int:
    """How many resamples are in memory at a time."""
    return max(1, _CHUNK // images)


def _divide(top: Any, bottom: Any) -> FloatArray:
    """top / bottom; 0 where the bottom is 0, so that a resample without a mention has a rate of 0 instead of NaN."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) > 0)
