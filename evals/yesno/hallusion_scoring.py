"""Score HallusionBench as JSON and table of command and task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.report import aligned, percent
from evals.statistics import Interval
from evals.task import Scored
from evals.yesno.hallusion import HallusionRow, HallusionScore, score_rows
from grounding.runs.provenance import versions

VERSION = 2
_NAMES = ("a_acc", "q_acc", "f_acc", "easy_q_acc", "hard_q_acc")


def score_all(rows: Sequence[HallusionRow], how: str, variant: dict[str, Any], seed: int) -> Scored:
    """Score all rows and each category.

    Args:
        rows: at least one.
        how: the rule that read the answers, for the table's title.
        variant: the same for the JSON.
        seed: of the bootstrap.
    """
    found = {"all": score_rows(rows, seed=seed)}
    for category in sorted({row.category for row in rows}):
        found[category] = score_rows([row for row in rows if row.category == category], seed=seed)
    data = {
        "task": "hallusion",
        "version": VERSION,
        **score_json(found["all"]),
        "categories": {name: score_json(one) for name, one in found.items() if name != "all"},
        "higher_is_better": dict.fromkeys(_NAMES, True),
        "variant": variant,
        "seed": seed,
        "versions": versions(),
    }
    lines = [["", "n", "aAcc", "qAcc", "fAcc", "easy qAcc", "hard qAcc", "unclear"]]
    for name, one in found.items():
        lines.append([name, str(one.n), *(_cell(getattr(one, part)) for part in _NAMES), str(one.unclear)])
    return Scored(data, f"HallusionBench, {how}\n\n{aligned(lines)}")


def score_json(found: HallusionScore) -> dict[str, Any]:
    """Convert the metrics to percent by name, with intervals; null where there were no rows."""
    figures: dict[str, Interval | None] = {name: getattr(found, name) for name in _NAMES}
    return {
        "n": found.n,
        "unclear": found.unclear,
        **{name: percent(one.value) if one else None for name, one in figures.items()},
        "intervals": {name: [percent(one.low), percent(one.high)] if one else None for name, one in figures.items()},
    }


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
