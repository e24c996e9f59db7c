"""Plot the truncation curves of runs, with each run's own point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.diagnostics.plots import legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUNS = ("#2b7fc4", "#d9542b", "#1f9e77", "#b065c9", "#c98a12", "#4aa8c0", "#8b95a5")
_MARKERS = "o^sDvP*"
_APART = 0.2
_LETTERS = 45  # characters per line of the legend


def curve_figure(runs: Mapping[str, Mapping[str, Any]], measure: str, ink: str) -> Figure | None:
    """Plot recall against CHAIR: each run's own point, and a line through its captions cut after k words.

    Args:
        runs: each run's scores by its displayed name.
        measure: `chair_i` or `chair_s`.
        ink: colour of text and axes.

    Returns:
        The figure; None if no run has a truncation curve.
    """
    lines = {name: _points(scores, measure) for name, scores in runs.items()}
    if not any(len(line) for line in lines.values()):
        return None
    figure, axes = new_figure(ink, 3.7)
    for number, (name, line) in enumerate(lines.items()):
        colour, marker = RUNS[number % len(RUNS)], _MARKERS[number % len(_MARKERS)]
        own = (runs[name].get("recall"), runs[name].get(measure))
        placed = [float(value) for value in own if isinstance(value, int | float)]
        if len(line):
            title = None if len(placed) == 2 else name
            axes.plot(
                line[:, 1], line[:, 2], color=colour, linewidth=1.6, marker=".", markersize=5, alpha=0.75, label=title
            )
        if len(placed) == 2:
            axes.plot(
                *placed,
                color=colour,
                marker=marker,
                markersize=10,
                linestyle="",
                label=name,
                markeredgecolor="w",
                clip_on=False,
            )
        if len(line) and number == 0:
            for k, recall, invented in _apart(line):
                axes.annotate(
                    f"k={k:.0f}", (recall, invented), (6, -11), textcoords="offset points", color=ink, fontsize=9
                )
    axes.set(xlabel="recall (%)", ylabel={"chair_i": "CHAIR_I (%)", "chair_s": "CHAIR_S (%)"}[measure], ylim=(0, None))
    legend(axes, ink, max(1, min(3, len(runs), _LETTERS // max(map(len, runs)))))
    return figure


def _apart(line: np.ndarray) -> list[np.ndarray]:
    """Select points to label, at least `_APART` of the line's extent from each other."""
    span = np.maximum(np.ptp(line[:, 1:], axis=0), 1e-9)
    chosen: list[np.ndarray] = []
    for point in line:
        if all(np.abs((point - other)[1:] / span).max() > _APART for other in chosen):
            chosen.append(point)
    return chosen


def _points(scores: Mapping[str, Any], measure: str) -> np.ndarray:
    """[n, 3] k, recall and the measure; [0, 3] without a curve."""
    found = scores.get("truncation_curve")
    rows: Sequence[Any] = found if isinstance(found, list) else []
    wanted = ("k", "recall", measure)
    points = [
        [float(one[name]) for name in wanted]
        for one in rows
        if isinstance(one, dict) and all(isinstance(one.get(name), int | float) for name in wanted)
    ]
    return np.array(points).reshape(-1, 3)
