"""A folder of results that survives being cut off: one line per item, and what the run was made with.

`results.jsonl` grows by whole lines that are on the disk before the next item begins. A line's key names picture, words
and configuration, so a second run finds what is done. While a run works its lines stand in the order of work; at its
end the file is put into the manifest's order. Lines hold nothing that changes between two runs of the same
configuration (no times, no host), so a run that was killed and started again leaves the same bytes as one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.errors import GroundingError, OutputError
from grounding.files import append_jsonl, read_jsonl, to_json, write_json, write_text
from grounding.io import coco_result
from pipelines.manifest import Item
from pipelines.provenance import RunConfig, versions

if TYPE_CHECKING:
    from pipelines.referring import ReferringResult

RESULTS = "results.jsonl"
RUN = "run.json"
COCO = "coco_results.json"

Record = dict[str, Any]
"""One line of `results.jsonl`, as JSON holds it."""


class ResultLog:
    """The lines of one folder's `results.jsonl`, by key. Nothing is written before the first `add`.

    Args:
        folder: where the results are, or will be.

    Raises:
        OutputError: the folder cannot be written to, or its lines are not those of a run.
    """

    def __init__(self, folder: Path) -> None:
        check_writable(folder)
        self.file = folder / RESULTS
        self.records: dict[str, Record] = {}
        for number, record in enumerate(read_jsonl(self.file), start=1):
            if not isinstance(record, dict) or not isinstance(record.get("key"), str) or "error" not in record:
                raise OutputError(
                    f"line {number} of {self.file} is not a result of this command: choose another --out, or move the "
                    "file away"
                )
            self._take(record)

    def add(self, record: Record) -> None:
        """Append a line; it is on the disk when this returns, and replaces an earlier one of the same key."""
        append_jsonl(self.file, record)
        self._take(record)

    def settle(self, keys: Sequence[str]) -> None:
        """Put the lines of these keys last and in this order, one each; the other lines stay before them.

        Args:
            keys: the run's keys in the order of its manifest.
        """
        mine = dict.fromkeys(keys)
        others = [record for key, record in self.records.items() if key not in mine]
        ordered = others + [self.records[key] for key in mine if key in self.records]
        text = "".join(to_json(record, str(self.file)) + "\n" for record in ordered)
        if not self.file.exists() or self.file.read_text(encoding="utf-8") != text:
            write_text(self.file, text)
        self.records = {record["key"]: record for record in ordered}

    def _take(self, record: Record) -> None:
        self.records.pop(record["key"], None)
        self.records[record["key"]] = record


def result_record(item: Item, config: RunConfig, result: ReferringResult, files: Sequence[str]) -> Record:
    """The line of an item that went well; numbers are rounded far below what they mean.

    Args:
        item: what was asked.
        config: of the run.
        result: what came out.
        files: names of the files that were written, relative to the folder.
    """
    points = result.points
    return {
        **_head(item, config),
        "image_size": list(result.map.image_size),
        "segments": [_segment(one) for one in result.segments],
        "points": {
            "xy": [[round(float(x), 2), round(float(y), 2)] for x, y in points.xy],
            "label": points.label.tolist(),
            "weight": [round(float(weight), 6) for weight in points.weight],
            "box_xyxy": None if points.box_xyxy is None else [round(side, 2) for side in points.box_xyxy],
        },
        "stages": [
            {"stage": report.stage, "removed": round(float(report.removed), 6), "detail": report.detail}
            for report in result.stages
        ],
        "files": list(files),
        "error": None,
    }


def error_record(item: Item, config: RunConfig, error: GroundingError) -> Record:
    """The line of an item that failed, with the sentence that says why."""
    return {**_head(item, config), "error": {"kind": type(error).__name__, "sentence": str(error)}}


def write_run(folder: Path, config: RunConfig) -> Path:
    """Note in `run.json` what a configuration's hash stands for, beside those of earlier runs into this folder."""
    file = folder / RUN
    runs = read_runs(file) if file.exists() else {}
    runs[config.hash] = {"config": asdict(config), "seed": config.seed, "versions": versions()}
    return write_json(file, {"runs": runs})


def read_runs(file: Path) -> dict[str, Any]:
    """The runs of a `run.json` by configuration hash.

    Raises:
        OutputError: it cannot be read, or it is something else.
    """
    import json

    try:
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{file} does not describe runs of this command: choose another --out, or move it away"
        ) from error
    return dict(runs)


def write_coco_results(folder: Path, records: Sequence[Record]) -> Path:
    """All masks of a run as one COCO results file.

    An entry's `image_id` is the manifest line's own, or the image's path where it has none.
    """
    entries = [
        {
            "image_id": record.get("manifest", {}).get("image_id", record["image"]),
            "category_id": 1,
            **_coco_part(segment),
        }
        for record in records
        for segment in record.get("segments", ())
    ]
    return write_json(folder / COCO, entries, indent=None)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before anything is computed and without making it.

    Raises:
        OutputError: it, or the nearest folder above it that exists, is a file or may not be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OutputError(
            f"{folder} cannot be written: {there} is a file where a folder is needed: choose another --out"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written: no permission in {there}: choose another --out")


def _head(item: Item, config: RunConfig) -> Record:
    head: Record = {
        "key": item.key(config.hash),
        "image": item.image,
        "expression": item.expression,
        "config": config.hash,
    }
    return {**head, "manifest": dict(item.extra)} if item.extra else head


def _segment(segment: Any) -> Record:
    entry = dict(coco_result(segment, 0))
    agreement = None if segment.agreement is None else round(float(segment.agreement), 6)
    return {
        "segmentation": entry["segmentation"],
        "bbox": entry["bbox"],
        "area": int(segment.mask.sum()),
        "score": round(float(segment.score), 6),
        "agreement": agreement,
    }


def _coco_part(segment: Record) -> Record:
    return {name: segment[name] for name in ("segmentation", "bbox", "score")}
