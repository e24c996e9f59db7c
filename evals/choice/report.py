"""The scores of `grounding eval candidates` as Markdown, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def report(data: dict[str, Any]) -> str:
    """Render the scores as Markdown."""
    lines = [
        f"Model {data['config']['model']}, segmenter {data['config']['segmenter']}, {data['what']}. Intervals are 95 % "
        "bootstraps, resampled by picture.",
        *(line for note in data["notes"] for line in ("", f"Note: {note}.")),
        "",
        "| candidates | n | mIoU | minus points | best candidate | right (IoU ≥ 0.5) |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in data["kinds"].items():
        lines.append(
            f"| {kind} | {row['n']} | {_shown(row['miou'])} | {_shown(row.get('minus_points'))} | "
            f"{_shown(row['best_miou'])} | {_shown(row['right'])} |"
        )
    lines += ["", "| AUROC of | candidates | what is there | all questions |", "|---|---|---|---|"]
    for kind, row in data["kinds"].items():
        for name, said in (("confidence", "the confidence"), ("estimate", "the segmenter's estimate")):
            found = row["auroc"][name]
            if found["all"] is not None:
                lines.append(f"| {said} | {kind} | {_shown(found['present'])} | {_shown(found['all'])} |")
    for kind, row in data["kinds"].items():
        if row["reliability"]:
            lines += ["", f"| confidence, {kind} | answers | mean confidence | right |", "|---|---|---|---|"]
            lines += [
                f"| {one['low']:.1f} to {one['high']:.1f} | {one['n']} | {one['confidence']:.2f} | {one['right']:.2f} |"
                for one in row["reliability"]
            ]
            lines += ["", f"Calibration error {row['calibration_error']:.3f}."]
    return "\n".join(lines) + "\n"


def draw_reliability(kinds: dict[str, dict[str, Any]], file: Path) -> Path | None:
    """Draw the share of right answers over confidence, one line per kind that has a confidence; None without one."""
    import io

    from matplotlib.figure import Figure

    from grounding.files import write_bytes

    drawn = {kind: row["reliability"] for kind, row in kinds.items() if row["reliability"]}
    if not drawn:
        return None
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#8b95a5", linestyle="--", linewidth=1, label="as sure as right")
    for kind, bins in drawn.items():
        axes.plot([one["confidence"] for one in bins], [one["right"] for one in bins], marker="o", label=kind)
        for one in bins:
            axes.annotate(str(one["n"]), (one["confidence"], one["right"]), xytext=(5, -11), textcoords="offset points")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of right answers", aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return write_bytes(file, stream.getvalue())


def _shown(triple: Sequence[float] | None) -> str:
    if triple is None:
        return ""
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
