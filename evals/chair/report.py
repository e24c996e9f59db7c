"""CHAIR's metrics as tables and JSON: shares in percent, counts and lengths as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from evals.chair.curve import CurvePoint
from evals.chair.score import CaptionScore, ChairScore
from evals.report import DIGITS, aligned, percent
from evals.statistics import Interval

# Counts, lengths and rates, not printed in percent.
PLAIN = ("length", "distinct_objects", "distinct_rate", "distinct_4")
# None: neither direction is better.
HIGHER_IS_BETTER: dict[str, bool | None] = {
    "chair_s": False,
    "chair_i": False,
    "recall": True,
    "precision": True,
    "f1": True,
    "length": None,
    "chair_i_distinct": False,
    "distinct_objects": None,
    "distinct_rate": True,
    "distinct_4": True,
    "repeated_sentences": False,
    "cut_off": False,
}
HEADS = {
    "chair_s": "CHAIR_S",
    "chair_i": "CHAIR_I",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "length": "length",
    "chair_i_distinct": "CHAIR_I distinct",
    "distinct_objects": "distinct objects",
    "distinct_rate": "distinct per mention",
    "distinct_4": "distinct-4",
    "repeated_sentences": "repeated sentences",
    "cut_off": "cut off",
}


def shown(name: str, value: float) -> float:
    """Convert a metric to the printed unit: shares to percent, the others unchanged."""
    return round(value, DIGITS) if name in PLAIN else percent(value)


def chair_json(found: ChairScore) -> dict[str, Any]:
    """List the metrics by name, their intervals, and which direction is better."""
    intervals = {one.name: getattr(found, one.name) for one in fields(found) if one.name in HIGHER_IS_BETTER}
    return {
        "n": found.n,
        "empty": found.empty,
        **{name: shown(name, interval.value) for name, interval in intervals.items()},
        "intervals": {name: [shown(name, one.low), shown(name, one.high)] for name, one in intervals.items()},
        "higher_is_better": HIGHER_IS_BETTER,
    }


def point_json(point: CurvePoint) -> dict[str, float]:
    """Convert a point of the truncation curve."""
    names = [one.name for one in fields(point) if one.name != "k"]
    return {"k": point.k, **{name: shown(name, getattr(point, name)) for name in names}}


def sample_json(score: CaptionScore) -> dict[str, Any]:
    """Convert one caption's counts to a line of a details file; `named` lists the words that named each class."""
    named: dict[str, list[str]] = {}
    for place, one in zip(score.places, score.mentions, strict=True):
        if score.words[place] not in named.setdefault(one, []):
            named[one].append(score.words[place])
    return {
        "image_id": score.image_id,
        "mentions": list(score.mentions),
        "hallucinated": list(score.hallucinated),
        "named": named,
        "missed": sorted(score.truth - set(score.mentions)),
        "length": len(score.words),
        "repeats": score.quality.repeats,
        "cut_off": score.quality.cut_off,
    }


def chair_table(rows: Mapping[str, ChairScore]) -> str:
    """Render one column per run and one line per metric, with intervals."""
    lines = [["", *rows], ["n", *(str(one.n) for one in rows.values())]]
    for name, head in HEADS.items():
        lines.append([head, *(_cell(name, getattr(one, name)) for one in rows.values())])
    return aligned(lines)


def curve_table(curve: Sequence[CurvePoint]) -> str:
    """Render one line per cut."""
    names = ("chair_s", "chair_i", "chair_i_distinct", "recall", "f1", "length")
    lines = [["k", *(HEADS[name] for name in names)]]
    lines += [[str(one.k), *(f"{shown(name, getattr(one, name)):.1f}" for name in names)] for one in curve]
    return aligned(lines)


def _cell(name: str, interval: Interval) -> str:
    value, low, high = (shown(name, one) for one in (interval.value, interval.low, interval.high))
    digits = 2 if name in PLAIN else 1
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
