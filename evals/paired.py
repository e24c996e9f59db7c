"""Two runs over the same images, figure by figure: the difference, its interval, and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.report import aligned, percent
from evals.statistics import Interval, RatioOfSums, bootstrap_difference, mean_of, sign_test, swap_test

Shown = Callable[[str, float], float]
"""A figure's name and value to the value that is printed."""


@dataclass(frozen=True)
class PairedDifference:
    """One figure of both runs.

    Attributes:
        a: of the first run.
        b: of the second.
        difference: b - a, with the bootstrap interval over images drawn for both at once.
        p: of a paired permutation test, two-sided.
    """

    a: float
    b: float
    difference: Interval
    p: float


def paired(a: Mapping[str, RatioOfSums], b: Mapping[str, RatioOfSums], *, seed: int = 0) -> dict[str, PairedDifference]:
    """Every figure's difference.

    Args:
        a: the first run's figures by name.
        b: the second run's, of the same images and with at least the same names.
        seed: of bootstrap and permutation.
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
class Alone:
    """Items of a yes-or-no outcome that only one of two runs has.

    Attributes:
        a: in the first run only.
        b: in the second only.
        p: McNemar's exact test of the two numbers.
    """

    a: int
    b: int
    p: float

    @classmethod
    def of(cls, a: Sequence[bool], b: Sequence[bool]) -> Alone:
        """From both runs' outcomes, item by item."""
        only = [bool(x) - bool(y) for x, y in zip(a, b, strict=True)]
        return cls(only.count(1), only.count(-1), sign_test(only.count(1), only.count(-1)))

    def to_json(self) -> dict[str, Any]:
        """The three by name."""
        return {"a_alone": self.a, "b_alone": self.b, "p": self.p}


def compare_right(
    a: Sequence[bool], b: Sequence[bool], groups: Sequence[int], name: str, seed: int
) -> tuple[dict[str, Any], str]:
    """Two runs' shares of right answers: what the JSON says, and the table.

    Args:
        a: whether the first run's answers are right.
        b: the same of the second, item by item.
        groups: per item its image.
        name: what the share is called.
        seed: of bootstrap and permutation.
    """
    figures = paired({name: mean_of(a, groups)}, {name: mean_of(b, groups)}, seed=seed)
    alone = Alone.of(a, b)
    data = {"n": len(a), "differences": differences_json(figures, in_percent), "right_exact": alone.to_json()}
    said = f"right in A only {alone.a}, in B only {alone.b} answers: exact p {alone.p:.3g}"
    return data, f"{difference_table(figures, in_percent)}\n\n{said}"


def in_percent(name: str, value: float) -> float:
    """A share as papers print it, whatever its name."""
    return percent(value)


def differences_json(figures: Mapping[str, PairedDifference], shown: Shown) -> dict[str, Any]:
    """Each figure of both runs, the difference with its interval, and the p value."""
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
    """One line a figure, with one decimal, or two for those that are no shares."""
    lines = [["", "A", "B", "B - A", "p"]]
    for name, one in figures.items():
        digits = 2 if name in plain else 1
        change = one.difference
        value, low, high = (f"{shown(name, part):+.{digits}f}" for part in (change.value, change.low, change.high))
        a, b = (f"{shown(name, part):.{digits}f}" for part in (one.a, one.b))
        lines.append([name, a, b, f"{value} [{low}, {high}]", f"{one.p:.4f}"])
    return aligned(lines)
