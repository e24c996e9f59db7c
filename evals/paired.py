"""Compare two runs over the same images: the difference of each metric, its interval, and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.report import aligned, percent
from evals.statistics import Interval, RatioOfSums, bootstrap_difference, mean_of, sign_test, swap_test

Shown = Callable[[str, float], float]
"""From a metric's name and value to the printed value."""


@dataclass(frozen=True)
class PairedDifference:
    """One metric of two runs.

    Attributes:
        a: value of the first run.
        b: value of the second run.
        difference: b - a, with the bootstrap interval over images, resampled for both runs together.
        p: p value of a paired permutation test, two-sided.
    """

    a: float
    b: float
    difference: Interval
    p: float


def paired(a: Mapping[str, RatioOfSums], b: Mapping[str, RatioOfSums], *, seed: int = 0) -> dict[str, PairedDifference]:
    """Compare every metric of `a`.

    Args:
        a: the first run's metrics by name.
        b: the second run's, over the same images and with at least the same names.
        seed: of bootstrap and permutation test.
    """
    return {
        name: PairedDifference(
            one.value,
            b[name].value,
            bootstrap_difference(b[name], one, seed=seed),
            swap_test(b[name], one, seed=seed),
        )
        for name, one in a.items()
    }


@dataclass(frozen=True)
class DiscordantPairs:
    """Counts of items with a binary outcome in only one of two runs.

    Attributes:
        a: number in the first run only.
        b: number in the second run only.
        p: p value of McNemar's exact test of the two numbers.
    """

    a: int
    b: int
    p: float

    @classmethod
    def of(cls, a: Sequence[bool], b: Sequence[bool]) -> DiscordantPairs:
        """Count from both runs' outcomes, item by item."""
        only = [bool(x) - bool(y) for x, y in zip(a, b, strict=True)]
        return cls(only.count(1), only.count(-1), sign_test(only.count(1), only.count(-1)))

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON fields."""
        return {"a_alone": self.a, "b_alone": self.b, "p": self.p}


def compare_right(
    a: Sequence[bool], b: Sequence[bool], groups: Sequence[int], name: str, seed: int
) -> tuple[dict[str, Any], str]:
    """Compare two runs' shares of right answers, as JSON and table.

    Args:
        a: whether the first run's answers are right.
        b: the same of the second run, item by item.
        groups: the image of each item.
        name: of the share.
        seed: of bootstrap and permutation test.
    """
    figures = paired({name: mean_of(a, groups)}, {name: mean_of(b, groups)}, seed=seed)
    alone = DiscordantPairs.of(a, b)
    data = {"n": len(a), "differences": differences_json(figures, in_percent), "right_exact": alone.to_json()}
    said = f"right in A only {alone.a}, in B only {alone.b} answers: exact p {alone.p:.3g}"
    return data, f"{difference_table(figures, in_percent)}\n\n{said}"


def in_percent(name: str, value: float) -> float:
    """Convert a share to percent, whatever its name."""
    return percent(value)


def differences_json(figures: Mapping[str, PairedDifference], shown: Shown) -> dict[str, Any]:
    """Convert each metric of both runs, the difference with its interval, and the p value."""
    return {
        name: {
            "a": shown(name, one.a),
            "b": shown(name, one.b),
            "difference": shown(name, one.difference.value),
            "interval": [shown(name, one.difference.low), shown(name, one.difference.high)],
            "p": round(one.p, 6),
        }
        for name, one in figures.items()
    }


def difference_table(figures: Mapping[str, PairedDifference], shown: Shown, plain: tuple[str, ...] = ()) -> str:
    """Render one line per metric, with one decimal, or two for those in `plain`."""
    lines = [["", "A", "B", "B - A", "p"]]
    for name, one in figures.items():
        digits = 2 if name in plain else 1
        change = one.difference
        value, low, high = (f"{shown(name, part):+.{digits}f}" for part in (change.value, change.low, change.high))
        a, b = (f"{shown(name, part):.{digits}f}" for part in (one.a, one.b))
        lines.append([name, a, b, f"{value} [{low}, {high}]", f"{one.p:.4f}"])
    return aligned(lines)
