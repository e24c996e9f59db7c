"""Split the scores of any task into sections of named metrics, found by their `intervals`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.chair.report import HEADS, PLAIN

_NO_FIGURES = (
    "ablations config hashes higher_is_better intervals seed seeds truncation_curve variant version versions"
).split()
_COUNTS = (
    "n",
    "failed",
    "empty",
    "unparsable",
    "unread",
    "samples",
    "limit",
    "per_scene",
    "seconds",
    "version",
    "seed",
)
_FRACTIONS = ("pointing_accuracy", "miou", "oiou", "distinct_rate", "distinct_4")
_LABELS = {
    **HEADS,
    "accuracy": "accuracy",
    "yes_ratio": "yes-ratio",
    "chair": "CHAIR",
    "cover": "Cover",
    "hal": "Hal",
    "cog": "Cog",
    "pointing_accuracy": "pointing accuracy",
    "miou": "mIoU",
    "oiou": "oIoU",
}


@dataclass(frozen=True)
class Figure:
    """One metric of one run.

    Attributes:
        value: in the unit of the scores.
        low: lower end of its interval; None without one.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Section:
    """Metrics that belong together, such as those of one split.

    Attributes:
        title: such as the split's name; empty for the task's main metrics.
        n: number of samples; None if unknown.
        figures: metrics by name.
        better: by name whether higher is better; None for neither.
    """

    title: str
    n: int | None
    figures: Mapping[str, Figure]
    better: Mapping[str, bool | None]


def sections(scores: Mapping[str, Any]) -> tuple[Section, ...]:
    """List the sections of one run's scores, the main one first."""
    better = scores.get("higher_is_better")
    return tuple(_sections(scores, "", better if isinstance(better, Mapping) else {}))


def label(name: str) -> str:
    """The displayed name of a metric."""
    return _LABELS.get(name, name.replace("_", " "))


def digits(name: str) -> int:
    """Number of decimals of a metric."""
    return 3 if name in _FRACTIONS else 2 if name in PLAIN else 1


def unit(name: str) -> str:
    """Unit of a metric; empty if it has none."""
    if name in ("length", "distinct_objects"):
        return "words" if name == "length" else "a text"
    return "" if name in _FRACTIONS or name in PLAIN else "%"


def _sections(scores: Mapping[str, Any], title: str, better: Mapping[str, Any]) -> list[Section]:
    own = scores.get("higher_is_better")
    better = own if isinstance(own, Mapping) else better
    bounds = scores.get("intervals")
    names = list(bounds) if isinstance(bounds, Mapping) else _numbers(scores) if title else []
    figures = {name: _figure(scores[name], bounds, name) for name in names if _is_number(scores.get(name))}
    count = scores.get("n")
    found = []
    if figures:
        shown = {name: value if isinstance(value := better.get(name), bool) else None for name in figures}
        found.append(Section(title, count if isinstance(count, int) else None, figures, shown))
    for name, part in scores.items():
        if isinstance(part, Mapping) and name not in _NO_FIGURES:
            inner = name if name in ("generative", "discriminative") or not title else f"{title}: {name}"
            outer = "" if name in ("splits", "kinds", "controls") else inner
            found += _sections(part, outer, better) if outer else _inside(part, better)
    return found


def _inside(parts: Mapping[str, Any], better: Mapping[str, Any]) -> list[Section]:
    return [one for name, part in parts.items() if isinstance(part, Mapping) for one in _sections(part, name, better)]


def _numbers(scores: Mapping[str, Any]) -> Sequence[str]:
    return [name for name, value in scores.items() if _is_number(value) and name not in _COUNTS]


def _figure(value: float, bounds: Any, name: str) -> Figure:
    pair = bounds.get(name) if isinstance(bounds, Mapping) else None
    if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)):
        return Figure(float(value), float(pair[0]), float(pair[1]))
    return Figure(float(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
