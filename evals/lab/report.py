"""Render the result of a lab as one JSON object, one table and one plot."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evals.chair.report import point_json
from evals.lab.compare import TRUNCATION, UNSTEERED, Entry, LabResult
from evals.lab.plan import LabPlan
from evals.report import aligned, percent
from evals.tasks.scenes import SPLITS, ScenesTask

# Columns of the table: figure, head, digits.
_COLUMNS = (
    ("chair_s", "CHAIR_S", 1),
    ("chair_i", "CHAIR_I", 2),
    ("recall", "recall", 1),
    ("f1", "F1", 1),
    ("length", "length", 2),
    ("distinct_4", "distinct-4", 3),
    *((f"pope_{split}", f"POPE {split}", 1) for split in SPLITS),
)


def lab_json(found: LabResult, plan: LabPlan, task: ScenesTask) -> dict[str, Any]:
    """Convert every method's metrics, their differences from the unsteered model paired by scene, and the trials."""
    plain = found.entries[0]
    return {
        "model": plan.model,
        "scenes": plan.test_scenes,
        "entries": {one.name: _entry(one, plain, task, plan.seed) for one in found.entries},
        "truncation_curve": [point_json(point) for point in found.curve],
    }


def _entry(entry: Entry, plain: Entry, task: ScenesTask, seed: int) -> dict[str, Any]:
    from pathlib import Path

    scored = task.score(entry.answers, Path(), seed).data
    tried = [
        {
            "name": one.name,
            "allowed": one.allowed,
            "chair_i": percent(one.figures.chair_i),
            "recall": percent(one.figures.recall),
            "length": round(one.figures.length, 3),
            "f1": percent(one.figures.f1),
        }
        for one in entry.tried
    ]
    against = {} if entry is plain else task.compare(plain.answers, entry.answers, seed).data["differences"]
    return {**scored, "chosen": entry.chosen, "steering": entry.steering, "tried": tried, "difference": against}


def figure(entry: Mapping[str, Any], name: str) -> float:
    """Read a column's metric from one entry of the JSON."""
    if name.startswith("pope_"):
        return float(entry["pope"][name.removeprefix("pope_")]["accuracy"])
    return float(entry[name])


def lab_table(data: Mapping[str, Any]) -> str:
    """Render one line per method, and below it the 95 % intervals of its differences from the unsteered model."""
    lines = [["", *(head for _, head, _ in _COLUMNS)]]
    for name, entry in data["entries"].items():
        lines.append([name, *(f"{figure(entry, key):.{digits}f}" for key, _, digits in _COLUMNS)])
        if entry["difference"]:
            cells = []
            for key, _, digits in _COLUMNS:
                _, low, high = entry["difference"][key]
                cells.append(f"[{low:+.{digits}f}, {high:+.{digits}f}]")
            lines.append(["", *cells])
    chosen = [f"{name}: {entry['chosen']}" for name, entry in data["entries"].items() if entry["chosen"]]
    return aligned(lines) + "\n\nchosen on the validation scenes\n" + "\n".join(chosen)


def verdicts(data: Mapping[str, Any]) -> str:
    """Render, per method, the changes of CHAIR_I, recall and length, and the CHAIR_I of truncation at its recall."""
    plain = data["entries"][UNSTEERED]
    lines = [["", "CHAIR_I, relative", "recall, points", "length, relative", "truncation's CHAIR_I at this recall"]]
    for name, entry in data["entries"].items():
        if name in (UNSTEERED, TRUNCATION):
            continue
        change = entry["chair_i"] / plain["chair_i"] - 1 if plain["chair_i"] else 0.0
        lines.append(
            [
                name,
                f"{100 * change:+.1f} %",
                f"{entry['recall'] - plain['recall']:+.2f}",
                f"{100 * (entry['length'] / plain['length'] - 1):+.1f} %",
                f"{truncated_at(data, entry['recall']):.2f} (here {entry['chair_i']:.2f})",
            ]
        )
    return aligned(lines)


def truncated_at(data: Mapping[str, Any], recall: float) -> float:
    """CHAIR_I, in percent, of the unsteered captions after the shortest cut with at least this recall.

    If even the uncut captions have less, theirs is returned.
    """
    reached = [point for point in data["truncation_curve"] if point["recall"] >= recall]
    return float((reached[0] if reached else data["truncation_curve"][-1])["chair_i"])


def lab_plot(data: Mapping[str, Any]) -> bytes:
    """Plot CHAIR_I over recall as PNG: the truncation curve, a point per method, and its validation trials in faint."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5.5), layout="constrained")
    axes = drawing.add_subplot()
    curve = [point for point in data["truncation_curve"] if point["recall"] > 0]
    axes.plot([p["recall"] for p in curve], [p["chair_i"] for p in curve], color="0.5", label="unsteered, cut")
    for name, entry in data["entries"].items():
        if name == TRUNCATION:
            continue
        (point,) = axes.plot(entry["recall"], entry["chair_i"], "o", label=name)
        axes.plot(
            [one["recall"] for one in entry["tried"]],
            [one["chair_i"] for one in entry["tried"]],
            ".",
            color=point.get_color(),
            alpha=0.35,
        )
    lowest = min(figure(entry, "recall") for entry in data["entries"].values())
    axes.set_xlim(left=max(0.0, lowest - 8))
    axes.set(xlabel="recall, %", ylabel="CHAIR_I, % (lower is better)")
    axes.set_title(f"{data['scenes']} scenes; small points: candidates on the validation scenes", fontsize=9)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(drawing).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def plan_json(plan: LabPlan) -> dict[str, Any]:
    """Convert the plan to plain data, for hash and record."""
    return asdict(plan)
