"""The run folder of `grounding segment` and `grounding describe`.

    OUT/results.jsonl       one line per item; see `pipelines.records`
    OUT/run.json            what each configuration's hash stands for, and the versions it ran with
    OUT/coco_results.json   all masks, where the format `coco` is asked for; see `pipelines.coco`

What was computed is known by the image's name and bytes, the words and the configuration, so a second run finds what is
done. Lines are in the order of work while a run works, and in the manifest's order when it is finished. A run that was
killed and resumed leaves the same bytes as one that was not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grounding.errors import OutputError
from grounding.files import read_json, write_json
from grounding.runs.folder import RESULTS
from grounding.runs.provenance import versions
from grounding.runs.records import RecordLog
from pipelines.provenance import RunConfig
from pipelines.records import Record


def open_results(folder: Path) -> RecordLog[Record]:
    """Open a folder's `results.jsonl`. Nothing is written before the first record is added.

    Raises:
        OutputError: the folder cannot be written to or holds an evaluation, or a line is not a result.
    """
    RESULTS.check(folder)
    return RecordLog(folder / RESULTS.records, _parse, lambda record: str(record["key"]), lambda record: record)


def write_run(folder: Path, config: RunConfig) -> Path:
    """Write to `run.json` what a configuration's hash stands for, beside the configurations of earlier runs.

    Raises:
        OutputError: the file cannot be written, or is another tool's.
    """
    file = folder / RESULTS.description
    runs = read_runs(file) if file.exists() else {}
    runs[config.hash] = {"config": config.plain(), "seed": config.seed, "versions": versions()}
    return write_json(file, {"runs": runs})


def read_runs(file: Path) -> dict[str, Any]:
    """Read the runs of a `run.json`, by configuration hash.

    Raises:
        OutputError: the file cannot be read, or is another tool's.
    """
    refusal = OutputError(f"{file} does not describe runs of this command: choose another --out, or move it away")
    found = read_json(file, lambda wrong: refusal)
    try:
        return dict(found["runs"])
    except (KeyError, TypeError, ValueError) as wrong:
        raise refusal from wrong


def _parse(value: Any, where: str) -> Record:
    if not isinstance(value, dict) or not isinstance(value.get("key"), str) or "error" not in value:
        raise OutputError(f"{where} is not a result of this command: choose another --out, or move the file away")
    return value
