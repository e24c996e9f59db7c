"""Turn outcomes into scores with intervals, and scores into a table or a JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.metrics import Outcome
from evals.statistics import Interval, RatioOfSums, bootstrap, bootstrap_difference, mean_of

DIGITS = 6
PERCENT_DIGITS = 4  # papers print one; more are kept so that readers can round


@dataclass(frozen=True)
class Score:
    """Three fractions in [0, 1] with their intervals.

    Attributes:
        n: number of samples.
        failed: number of samples without an answer.
        pointing: share of best points that lie on the target.
        miou: mean over samples of the mask's IoU.
        oiou: sum of intersections over sum of unions; large objects dominate it.
    """

    n: int
    failed: int
    pointing: Interval
    miou: Interval
    oiou: Interval


@dataclass(frozen=True)
class Change:
    """Differences of a variant from the full method (variant - full) on the samples that both have."""

    pointing: Interval
    miou: Interval


def score(outcomes: Sequence[Outcome | None], groups: Sequence[int], seed: int = 0) -> Score:
    """Score a variant.

    Args:
        outcomes: one per sample; None is left out.
        groups: the image of each sample.
        seed: of the bootstrap.
    """
    there = _there(outcomes, groups)
    pointing, miou, oiou = (bootstrap(ratio, seed=seed) for ratio in _ratios(*there))
    return Score(len(there[0]), sum(outcome.failed for outcome in there[0]), pointing, miou, oiou)


def change(
    variant: Sequence[Outcome | None], full: Sequence[Outcome | None], groups: Sequence[int], seed: int = 0
) -> Change:
    """Compare a variant with the full method, paired by sample."""
    both = [index for index, outcome in enumerate(variant) if outcome is not None and full[index] is not None]
    places = [groups[index] for index in both]
    one = _ratios(*_there([variant[index] for index in both], places))
    other = _ratios(*_there([full[index] for index in both], places))
    pointing, miou = (bootstrap_difference(one[which], other[which], seed=seed) for which in (0, 1))
    return Change(pointing, miou)


def score_json(found: Score) -> dict[str, Any]:
    """Convert a score to JSON: the fractions by name, and their intervals."""
    named = {"pointing_accuracy": found.pointing, "miou": found.miou, "oiou": found.oiou}
    return {
        "n": found.n,
        "failed": found.failed,
        **{name: round(interval.value, DIGITS) for name, interval in named.items()},
        "intervals": {name: _bounds(interval) for name, interval in named.items()},
    }


def change_json(found: Change) -> dict[str, Any]:
    """Convert a change to JSON: differences of fractions, and their intervals."""
    named = {"pointing_accuracy": found.pointing, "miou": found.miou}
    return {
        **{name: round(interval.value, DIGITS) for name, interval in named.items()},
        "intervals": {name: _bounds(interval) for name, interval in named.items()},
    }


def score_table(rows: Mapping[str, Score], changes: Mapping[str, Change] | None = None) -> str:
    """Render scores as aligned text, one row per name, with intervals and the changes of pointing and mIoU."""
    changes = changes or {}
    head = ["", "n", "pointing", "mIoU", "oIoU"] + (["pointing against full", "mIoU against full"] if changes else [])
    lines = [head]
    for name, found in rows.items():
        cells = [name, str(found.n), *(_cell(interval) for interval in (found.pointing, found.miou, found.oiou))]
        if changes:
            mine = (changes[name].pointing, changes[name].miou) if name in changes else ()
            cells += [_cell(interval, signed=True) for interval in mine] or ["", ""]
        lines.append(cells)
    return aligned(lines)


def unanswered(failed: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say in a sentence each which variants left questions without an answer.

    Args:
        failed: name → how many questions had no answer, and how many there were.
    """
    return [
        f"{name} gave no answer to {count} of {asked} questions, which count as misses: its map was empty, it reads "
        "none of the words, or the question failed with a reason on stderr."
        for name, (count, asked) in failed.items()
        if count
    ]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Render rows of equally many cells as text with aligned columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def percent(value: float) -> float:
    """Convert a fraction to percent, with `PERCENT_DIGITS` decimals."""
    return round(100 * value, PERCENT_DIGITS)


def _there(outcomes: Sequence[Outcome | None], groups: Sequence[int]) -> tuple[list[Outcome], list[int]]:
    pairs = [(one, group) for one, group in zip(outcomes, groups, strict=True) if one is not None]
    return [one for one, _ in pairs], [group for _, group in pairs]


def _ratios(outcomes: Sequence[Outcome], groups: Sequence[int]) -> tuple[RatioOfSums, RatioOfSums, RatioOfSums]:
    """Compute pointing, mIoU and oIoU as ratios of sums."""
    where = np.asarray(groups, np.int64)
    overall = RatioOfSums(
        np.array([one.intersection for one in outcomes], np.float64),
        np.array([one.union for one in outcomes], np.float64),
        where,
    )
    return mean_of([one.hit for one in outcomes], where), mean_of([one.iou for one in outcomes], where), overall


def _bounds(interval: Interval) -> list[float]:
    return [round(interval.low, DIGITS), round(interval.high, DIGITS)]


def _cell(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"
