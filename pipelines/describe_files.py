"""A description as files and as JSON."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.files import make_folder, write_bytes
from grounding.io import coco_result

if TYPE_CHECKING:
    from pipelines.describe import Caption, Description, NounSupport


def save_description(description: Description, folder: Path, name: str) -> tuple[Path, ...]:
    """Write one picture a text; see `Description.save`."""
    from grounding.viz_nouns import NounPanel, noun_sheet  # matplotlib's colours take a while to import

    make_folder(folder)
    files = []
    for label, caption in description.captions.items():
        panels = [
            NounPanel(one.span, one.text, note_of(one), not one.supported, one.map, one.points, one.segment)
            for one in caption.nouns
        ]
        stream = io.BytesIO()
        title = label if label == "unsteered" else f"{label} by {description.steering}"
        noun_sheet(description.image, caption.text, panels, f"{title}: {summary(caption)}").save(stream, "PNG")
        files.append(write_bytes(folder / file_name(name, label), stream.getvalue()))
    return tuple(files)


def file_name(name: str, label: str) -> str:
    """The name of the picture of one text."""
    return f"{name}-{label}.png"


def caption_record(caption: Caption) -> dict[str, Any]:
    """A text as JSON holds it, without what differs between two runs; numbers are rounded far below what they mean."""
    return {
        "text": caption.text,
        "finished": caption.finished,
        "tokens": caption.tokens,
        "unsupported": [one.text for one in caption.unsupported],
        "nouns": [_noun(one) for one in caption.nouns],
    }


def speed_record(caption: Caption) -> dict[str, Any]:
    """How fast a text was generated."""
    rate = caption.tokens_per_second
    return {
        "seconds": None if caption.seconds is None else round(caption.seconds, 4),
        "tokens_per_second": None if rate is None else round(rate, 2),
    }


def summary(caption: Caption) -> str:
    """One line for people: how many nouns are in doubt."""
    doubtful = len(caption.unsupported)
    return f"{len(caption.nouns)} nouns, {doubtful} unsupported{'' if caption.finished else ', cut off'}"


def note_of(noun: NounSupport) -> str:
    """The parts of a noun's support on one line."""
    parts = noun.support
    note = f"support {parts.value:.2f}: gaze {parts.image_mass_ratio:.2f}, sharp {parts.sharpness:.2f}"
    return note if parts.agreement is None else f"{note}, mask {parts.agreement:.2f}"


def _noun(noun: NounSupport) -> dict[str, Any]:
    parts, points = noun.support, noun.points
    record: dict[str, Any] = {
        "text": noun.text,
        "noun": noun.noun,
        "span": list(noun.span),
        "supported": noun.supported,
        "support": round(parts.value, 6),
        "parts": {
            "gaze": round(parts.image_mass_ratio, 6),
            "sharpness": round(parts.sharpness, 6),
            "agreement": None if parts.agreement is None else round(parts.agreement, 6),
        },
        "points": None
        if points is None
        else {
            "xy": [[round(float(x), 2), round(float(y), 2)] for x, y in points.xy],
            "label": points.label.tolist(),
        },
        "mask": None,
    }
    if noun.segment is not None:
        entry = coco_result(noun.segment, 0)
        record["mask"] = {
            "segmentation": entry["segmentation"],
            "bbox": entry["bbox"],
            "score": round(entry["score"], 6),
        }
    return record
