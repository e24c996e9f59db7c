"""How sure a number is: bootstrap intervals of ratios, resampled by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 1 << 22  # resampled values held at a time
_ROUNDING = 1e-12  # sums in another order differ by less, and must count as equal

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the percentile bootstrap interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """A statistic of the form sum of tops / sum of bottoms; a mean has bottoms of 1.

    Attributes:
        tops: [N] float64.
        bottoms: [N] float64, 0 or more.
        groups: [N] int64, which image each value belongs to. Values of one image are drawn together, because they are
            not independent (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 8).
    """

    tops: FloatArray
    bottoms: FloatArray
    groups: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if not (len(self.tops) == len(self.bottoms) == len(self.groups)) or len(self.tops) == 0:
            raise ValueError(
                "a ratio needs as many tops, bottoms and groups, at least one: got "
                f"{len(self.tops)}, {len(self.bottoms)}, {len(self.groups)}"
            )

    @property
    def value(self) -> float:
        """The ratio of the sums; 0 where the bottoms sum to 0."""
        bottom = float(self.bottoms.sum())
        return float(self.tops.sum()) / bottom if bottom > 0 else 0.0

    def sums(self, images: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Sums of tops and of bottoms per image, in the order of `images`; 0 for an image without values."""
        at = np.searchsorted(images, self.groups)
        tops, bottoms = np.zeros(len(images)), np.zeros(len(images))
        np.add.at(tops, at, self.tops)
        np.add.at(bottoms, at, self.bottoms)
        return tops, bottoms


def mean_of(values: npt.ArrayLike, groups: npt.ArrayLike) -> Ratio:
    """The mean of values [N] as a ratio."""
    tops = np.asarray(values, np.float64)
    return Ratio(tops, np.ones_like(tops), np.asarray(groups, np.int64))


def bootstrap(ratio: Ratio, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Interval:
    """The interval of a ratio.

    Args:
        ratio: what is estimated.
        resamples: how often the images are drawn anew, with replacement.
        level: share of the resampled ratios inside the interval.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        The ratio itself and the percentiles around it.
    """
    images = np.unique(ratio.groups)
    low, high = _percentiles(_resampled(ratio, images, resamples, seed), level)
    return Interval(ratio.value, low, high)


def bootstrap_difference(
    one: Ratio, other: Ratio, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """The interval of `one - other`, both taken on the same resampled images, so that what they share cancels."""
    images = np.union1d(one.groups, other.groups)
    drawn = _resampled(one, images, resamples, seed) - _resampled(other, images, resamples, seed)
    low, high = _percentiles(drawn, level)
    return Interval(one.value - other.value, low, high)


def swap_test(one: Ratio, other: Ratio, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """How surprising a difference of two ratios is if, on every image, it were chance which run was which.

    Paired permutation test (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, section 3): the two
    runs' values are swapped image by image, and differences at least as large as the one seen are counted, either way.

    Args:
        one: values of one run.
        other: values of the other, on the same images.
        resamples: how often the images' swaps are drawn.
        seed: of the draws.

    Returns:
        The two-sided p value, at least 1 / (resamples + 1), since the difference itself is one of the draws.
    """
    images = np.union1d(one.groups, other.groups)
    (a, c), (b, d) = one.sums(images), other.sums(images)
    seen = abs(one.value - other.value)
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(images))
    beyond = 0
    for start in range(0, resamples, rows):
        swapped = generator.random((min(rows, resamples - start), len(images))) < 0.5
        mine = _divide((a + swapped * (b - a)).sum(axis=1), (c + swapped * (d - c)).sum(axis=1))
        theirs = _divide((b + swapped * (a - b)).sum(axis=1), (d + swapped * (c - d)).sum(axis=1))
        beyond += int((np.abs(mine - theirs) >= seen - _ROUNDING).sum())
    return (1 + beyond) / (1 + resamples)


def sign_test(only_one: int, only_other: int) -> float:
    """McNemar's exact test: p value of two runs that differ on so many images this way and so many the other.

    Two-sided; 1 where they never differ.
    """
    from scipy.stats import binomtest

    both = only_one + only_other
    return float(binomtest(only_one, both, 0.5).pvalue) if both else 1.0


def _resampled(ratio: Ratio, images: npt.NDArray[np.int64], resamples: int, seed: int) -> FloatArray:
    """[resamples] ratios; the draws depend on the seed and the number of images alone."""
    tops, bottoms = ratio.sums(images)
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(images))
    found = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(len(images), size=(min(rows, resamples - start), len(images)))
        top, bottom = tops[drawn].sum(axis=1), bottoms[drawn].sum(axis=1)
        found.append(_divide(top, bottom))
    return np.concatenate(found)


def _divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """0 where the bottom is 0."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _percentiles(values: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
