"""Two runs over the same images, figure by figure: the difference, its interval, and a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.report import aligned
from evals.statistics import Interval, Ratio, bootstrap_difference, swap_test

Shown = Callable[[str, float], float]
"""A figure's name and value to the value that is printed."""


@dataclass(frozen=True)
class Difference:
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


def paired(a: Mapping[str, Ratio], b: Mapping[str, Ratio], *, seed: int = 0) -> dict[str, Difference]:
    """Every figure's difference.

    Args:
        a: the first run's figures by name.
        b: the second run's, of the same images and with at least the same names.
        seed: of bootstrap and permutation.
    """
    return {
        name: Difference(
            one.value,
            b[name].value,
            bootstrap_difference(b[name], one, seed=seed),
            swap_test(b[name], one, seed=seed),
        )
        for name, one in a.items()
    }


def differences_json(figures: Mapping[str, Difference], shown: Shown) -> dict[str, Any]:
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


def difference_table(figures: Mapping[str, Difference], shown: Shown, plain: tuple[str, ...] = ()) -> str:
    """One line a figure, with one decimal, or two for those that are no shares."""
    lines = [["", "A", "B", "B - A", "p"]]
    for name, one in figures.items():
        digits = 2 if name in plain else 1
        change = one.difference
        value, low, high = (f"{shown(name, part):+.{digits}f}" for part in (change.value, change.low, change.high))
        a, b = (f"{shown(name, part):.{digits}f}" for part in (one.a, one.b))
        lines.append([name, a, b, f"{value} [{low}, {high}]", f"{one.p:.4f}"])
    return aligned(lines)
