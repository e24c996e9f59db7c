"""`grounding segment`: masks for words, in one image, many, or a manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError
from grounding.images import open_image
from grounding.runs.folder import RESULTS
from grounding.runs.records import RecordLog
from pipelines.batch import ItemOutcome, Job, finish, parse_formats, run_job
from pipelines.manifest import ManifestItem, items_from_manifest, items_from_words
from pipelines.options import ModelOptions
from pipelines.records import Record
from pipelines.results import Timings
from pipelines.runs import open_results

Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE... EXPRESSION")]


@dataclass(frozen=True)
class Spent:
    """The time a run took.

    Attributes:
        load: seconds until model and segmenter were ready.
        items: seconds by step of each item that went well, by its key.
    """

    load: float
    items: dict[str, Timings]

    def of(self, key: str) -> dict[str, dict[str, float]]:
        """An item's `seconds` as JSON: of loading, which all items share, and its own by step; empty if not run."""
        if key not in self.items:
            return {}
        return {"seconds": {name: round(s, 4) for name, s in {"load": self.load, **asdict(self.items[key])}.items()}}


@dataclass(frozen=True, kw_only=True)
class SegmentCommand(ModelOptions):
    """Segment what an expression refers to in images.

    Every item becomes one line of OUT/results.jsonl, with its masks as COCO run lengths, and the pictures and maps that
    --formats asks for. A manifest that was interrupted is resumed; images named on the command line are always done
    again.

    Exit codes: 0 everything is done; 1 some items of several failed, each with its sentence in its line; 2 refused,
    with nothing written (that is also how a single image fails); 130 interrupted.

    Attributes:
        words: one image or more (also folders, and patterns in quotes), then the expression in quotes. "the bowl, the
            table" is two expressions.
        manifest: JSON lines with `image` (relative to the manifest) and `expression`, instead of images and expression;
            `-` reads them from stdin.
        out: folder for the results.
        formats: `png` (picture, points, map and mask), `mask` (white on black, in the image's size), `cutout` (the
            image, transparent off the mask), `coco` (all masks in coco_results.json), `npz` (the map), `explain` (the
            same as --explain).
        explain: write for each result what led to it, as a picture and as JSON: the words with their shares of the
            attention, the map after every stage, the points and all candidate masks.
        json: print the items' lines on stdout, one JSON object each, in the order of the items. Items that this run
            worked on have `seconds` by step, which are not in the files, so equal runs leave equal files.
    """

    words: Words = ()
    manifest: Path | None = None
    out: Path = Path("out")
    formats: tuple[str, ...] = ("png", "coco")
    explain: bool = False
    json: bool = False

    def run(self) -> int:
        """Segment the items; see the class for the exit codes."""
        items = self._items()
        formats = parse_formats((*self.formats, *(["explain"] if self.explain else [])))
        config = self.config()
        alone = self.manifest is None and len(items) == 1
        job = Job(items, self.out, formats, config, self.batch_size, self.manifest is not None, strict=alone)
        with RESULTS.hold(self.out):
            return self._fill(job)

    def _fill(self, job: Job) -> int:
        """Do what is to be done in the folder, and print the lines."""
        lines = open_results(self.out)
        done = job.done(lines)
        batches = job.batches(done)
        before = sum(item.work(job.config.hash) in done for item in job.items)
        started = time.perf_counter()
        spent = self._work(job, lines, batches, len(job.items) - before) if batches else Spent(0.0, {})
        records = finish(job, lines)
        failed = sum(record["error"] is not None for record in records)
        took = time.perf_counter() - started
        stderr().print(_summary(len(job.items) - before - failed, before, failed, took, spent, self.out))
        for record in records:
            if self.json:
                emit(record | spent.of(record["key"]))
            elif record["error"] is None:
                stdout().print(_line(record, self.out))
        return 1 if failed else 0

    def _items(self) -> tuple[ManifestItem, ...]:
        if self.manifest is None:
            items = items_from_words(self.words)
            asked = tuple(dict.fromkeys(item.expression for item in items))
            if len(asked) > 1:
                stderr().print(f"note: {self.words[-1]!r} is taken as {len(asked)} expressions: {' | '.join(asked)}")
            return items
        if self.words:
            raise UsageError(
                f"both --manifest and {self.words[0]!r} were given: give a manifest, or images and an expression"
            )
        return items_from_manifest(self.manifest)

    def _work(self, job: Job, lines: RecordLog[Record], batches: Sequence[Sequence[ManifestItem]], left: int) -> Spent:
        if job.strict:
            open_image(job.items[0].path)  # a bad image is refused before the model is loaded
        started = time.perf_counter()
        pipe = self.load(explain="explain" in job.formats)
        spent = Spent(time.perf_counter() - started, {})
        with progress_bar(stderr()) as progress:
            task = progress.add_task("segment", total=left)
            told: set[str] = set()

            def report(item: ManifestItem, outcome: ItemOutcome) -> None:
                progress.advance(task)
                if isinstance(outcome, GroundingError):
                    stderr().print(f"failed: {item.image}, {item.expression!r}: {outcome}")
                elif (work := item.work(job.config.hash)) not in told:  # items of equal work share one computation
                    told.add(work)
                    spent.items[item.key(job.config.hash)] = outcome.timings

            run_job(job, pipe, lines, batches, report)
        return spent


def _line(record: Record, out: Path) -> str:
    """One result as text: its first file, or the image's name, the area of its masks, and how sure it is.

    The segmenter's own estimate is left out: it is about as high for masks of the wrong thing.
    """
    name = str(out / record["files"][0]) if record["files"] else record["image"]
    width, height = record["image_size"]
    masks = ", ".join(f"{segment['area'] / (width * height):.1%} of the image" for segment in record["segments"])
    masks = masks or "no mask"
    if record.get("confidence") is not None:
        masks += f", confidence {record['confidence']:.2f}"
    notes = (f"note: {one}" for one in record.get("notes", ()))
    return "; ".join((f"{name}: {record['expression']!r}, {masks}", *notes))


def _summary(done: int, before: int, failed: int, seconds: float, spent: Spent, out: Path) -> str:
    parts = [f"{done} done in {seconds:.1f} s"]
    if spent.items:
        attention, encode, mask = (
            sum(getattr(one, name) for one in spent.items.values()) for name in ("attention", "encode", "mask")
        )
        parts[0] += f" (load {spent.load:.1f} s, model {attention:.1f} s, segmenter {encode + mask:.1f} s)"
    if before:
        parts.append(f"{before} were there already")
    if failed:
        parts.append(f"{failed} failed, see their lines in {out / RESULTS.records}")
    return "; ".join(parts)
