"""The masks of a run folder as COCO results, and the images they are of.

    OUT/coco_results.json   the masks, for `COCO(ground_truth).loadRes`
    OUT/coco_images.json    the images by id, in the form of a ground truth without annotations

Both are made of every line of `results.jsonl` of one configuration, so a loop over pictures ends in the same files as
one manifest. An entry's `image_id` is the manifest line's own; else the number in a file name of COCO's; else a number
of this project's, which depends on the image's name and content alone. With ids of the last kind, load the results with
`COCO("coco_images.json")`, or take the ids from there by `file_name`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grounding.files import write_json
from grounding.runs.provenance import short_hash
from pipelines.records import Record

RESULTS, IMAGES = "coco_results.json", "coco_images.json"
_DIGITS = 12  # of a COCO file name; and hexadecimal ones of our own ids, which are below 2 ** 48
_NUMBER = re.compile(r"0*([0-9]{1,18})")
_NAME = re.compile(rf"(?:COCO_[a-z]+[0-9]{{4}}_)?([0-9]{{{_DIGITS}}})(?:\.[A-Za-z]+)?")


def write_coco(folder: Path, records: Sequence[Record]) -> None:
    """Write the masks and the images of a run's lines; a line that failed has neither.

    Raises:
        OutputError: a file cannot be written.
    """
    entries: list[dict[str, Any]] = []
    images: dict[int | str, dict[str, Any]] = {}
    categories: dict[int, str] = {}
    numbers = _numbered(records)
    for record in records:
        if record["error"] is not None:
            continue
        number, category, (width, height) = image_id(record), category_id(record), record["image_size"]
        images.setdefault(number, {"id": number, "file_name": record["image"], "width": width, "height": height})
        if "answers" not in record:
            categories.setdefault(category, str(record.get("manifest", {}).get("category", "object")))
        for segment in record["segments"]:
            if "name" in segment:  # an instance of open-ended segmentation is of a category of its own
                own = segment.get("category_id", numbers.get(segment["name"]))
                if own is None:
                    continue  # its name is none of the vocabulary's
                category = own
                categories.setdefault(category, segment["name"])
            # Without a box: `loadRes` takes it from the mask, but takes the area from a box that it is given.
            # COCO's `score` ranks masks; lines of earlier versions have the estimate under that name.
            score = segment["score"] if "score" in segment else segment["estimated_iou"]
            mask = {"segmentation": segment["segmentation"], "score": score}
            entries.append({"image_id": number, "category_id": category, **mask})
    write_json(folder / RESULTS, entries, indent=None)
    described = {
        "images": list(images.values()),
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in sorted(categories.items())],
    }
    write_json(folder / IMAGES, described, indent=None)


def _numbered(records: Sequence[Record]) -> dict[str, int]:
    """Categories of names that have none of a vocabulary: numbers from 1 in alphabetical order."""
    segments = (segment for record in records if record["error"] is None for segment in record["segments"])
    names = sorted({one["name"] for one in segments if "name" in one and "category_id" not in one})
    return {name: number for number, name in enumerate(names, 1)}


def image_id(record: Record) -> int | str:
    """The COCO id of a line's image; text only where the manifest gives text that is no number."""
    given = record.get("manifest", {}).get("image_id")
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and given:
        number = _NUMBER.fullmatch(given) or _NAME.fullmatch(given)
        return int(number[1]) if number else given
    named = _NAME.fullmatch(Path(record["image"]).name)
    return int(named[1]) if named else int(short_hash([record["image"], record["image_hash"]], _DIGITS), 16)


def category_id(record: Record) -> int:
    """The manifest line's own category, 1 where it has none."""
    given = record.get("manifest", {}).get("category_id")
    return given if isinstance(given, int) and not isinstance(given, bool) else 1
