"""The scores of `grounding eval photos` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.report import unanswered


def report(data: dict[str, Any]) -> str:
    """Render the scores as Markdown."""
    lines = [
        f"Model {data['config']['model']}, {data['test_photos']} test photos, of which nearly all show a person. "
        "Fractions with 95 % bootstrap intervals, resampled by photo.",
    ]
    if "nouns" in data:
        part = data["nouns"]
        lines += ["", "| nouns | n | point in mask | full minus this | mIoU | mIoU, full minus this |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in part["variants"].items():
            ahead = part["full_minus"].get(name)
            lines.append(
                f"| {name} | {row['n']} | {_of(row, 'pointing_accuracy')} | "
                f"{_of(ahead, 'pointing_accuracy') if ahead else ''} | {_of(row, 'miou')} | "
                f"{_of(ahead, 'miou') if ahead else ''} |"
            )
        heads = part["shuffled_heads"]
        lines.append(
            f"| heads of other photos | | {_shown(heads['pointing_accuracy'])} | {_shown(heads['full_minus'])} | | |"
        )
        without = {name: (row["failed"], row["n"]) for name, row in part["variants"].items()}
        lines += [line for said in unanswered(without) for line in ("", said)]
        lines += [line for name, why in part["left_out"].items() for line in ("", f"Left out: {name}: {why}")]
        most = ", ".join(f"{name} {hit}/{asked}" for name, (hit, asked) in list(part["by_class"].items())[:25])
        lines += ["", f"Hits by class: {most}."]
    if "expressions" in data:
        part = data["expressions"]
        for title, rows in (("expressions", part), ("expressions that could be asked", part["answered"])):
            lines += ["", f"| {rows['n']} {title} | point in box | full minus this | refused |", "|---|---|---|---|"]
            for name, row in rows["point_in_box"].items():
                ahead, refused = rows["full_minus"].get(name), part["refused"].get(name, 0) if rows is part else ""
                lines.append(f"| {name} | {_shown(row)} | {_shown(ahead) if ahead else ''} | {refused} |")
    if "pope" in data:
        lines += ["", "| POPE | n | accuracy | F1 | share of yes |", "|---|---|---|---|---|"]
        lines += [
            f"| {split} | {row['n']} | {_shown(row['accuracy'])} | {_shown(row['f1'])} | {_shown(row['yes_ratio'])} |"
            for split, row in data["pope"].items()
        ]
        lines += _failures({f"questions of POPE {split}": row for split, row in data["pope"].items()})
    if "captions" in data:
        part = data["captions"]
        lines += ["", f"| {part['n']} captions | |", "|---|---|"]
        lines += [f"| {name} | {_shown(part[name])} |" for name in ("chair_s", "chair_i", "recall", "length")]
        lines += _failures({"captions": part})
        lines += ["", *(f"- {photo}: {text}" for photo, text in part["captions"].items())]
    return "\n".join(lines) + "\n"


def _failures(parts: dict[str, dict[str, Any]]) -> list[str]:
    return [line for name, part in parts.items() if part["failed"] for line in ("", f"{part['failed']} {name} failed.")]


def _of(row: dict[str, Any], what: str) -> str:
    return _shown([row[what], *row["intervals"][what]])


def _shown(triple: Sequence[float]) -> str:
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
