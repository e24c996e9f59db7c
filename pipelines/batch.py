"""Many items through the pipeline into a folder: failures are recorded one by one, and a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from grounding.errors import GroundingError, UsageError
from grounding.faults import attempt_one
from grounding.files import shortened, slug
from grounding.images import open_image
from grounding.runs.attempts import attempt_pictures, cut
from grounding.runs.records import RecordLog
from pipelines.coco import write_coco
from pipelines.manifest import ManifestItem
from pipelines.open_ended import OpenEndedSegmentation
from pipelines.open_ended_result import OpenEndedResult
from pipelines.provenance import RunConfig
from pipelines.records import Record, error_record, for_item, open_ended_record, outdated, result_record, work_of
from pipelines.referring import ReferringSegmentation
from pipelines.results import ReferringResult
from pipelines.runs import write_run
from pipelines.writers import FORMATS, Format, file_names

Pipe = ReferringSegmentation | OpenEndedSegmentation
Result = ReferringResult | OpenEndedResult
ItemOutcome = Result | GroundingError


@dataclass(frozen=True)
class Job:
    """What is to be done, and where it goes.

    Attributes:
        items: images and expressions, in the manifest's order.
        out: the run folder.
        formats: `coco` is one file per run, each other one file per piece of work, or two for `explain`.
        config: of the run.
        batch_size: most items in one forward pass.
        resume: skip items that are done; otherwise all are done again.
        strict: raise the first item's error instead of recording it.
    """

    items: tuple[ManifestItem, ...]
    out: Path
    formats: tuple[Format, ...]
    config: RunConfig
    batch_size: int
    resume: bool
    strict: bool = False

    def stem(self, item: ManifestItem) -> str:
        """The name of a piece of work's own files, without ending."""
        words = [shortened(slug(item.expression), 40, 60)] if item.expression else []
        return "-".join([slug(Path(item.image).stem), *words, item.work(self.config.hash)[:8]])

    @property
    def own_formats(self) -> tuple[Format, ...]:
        """The formats that give every piece of work files of its own."""
        return tuple(form for form in self.formats if form != "coco")

    def files(self, item: ManifestItem) -> tuple[str, ...]:
        """The names of a piece of work's own files."""
        return tuple(name for form in self.own_formats for name in file_names(self.stem(item), form))

    def done(self, results: RecordLog[Record]) -> frozenset[str]:
        """The works of items to be skipped: they have a line without an error, and their files exist."""
        if not self.resume:
            return frozenset()
        good = {work for work, record in self.by_work(results).items() if record["error"] is None}
        return frozenset(
            work
            for item in self.items
            if (work := item.work(self.config.hash)) in good
            and all((self.out / name).is_file() for name in self.files(item))
        )

    def by_work(self, results: RecordLog[Record]) -> dict[str, Record]:
        """The newest line of each piece of work under the job's configuration."""
        mine = (one for one in results.records.values() if one["config"] == self.config.hash and "image_hash" in one)
        return {work_of(record): record for record in mine}

    def batches(self, done: Container[str]) -> list[tuple[ManifestItem, ...]]:
        """Cut the pieces of work into batches, those of one image side by side, and keep batches with some to do.

        Items of equal work are in it once. An interrupted batch is run again as a whole, because padding can change a
        result's last digits.
        """
        works: dict[str, ManifestItem] = {}
        first: dict[Path, int] = {}
        for item in self.items:
            works.setdefault(item.work(self.config.hash), item)
            first.setdefault(item.path, len(first))
        every = cut(sorted(works.values(), key=lambda item: first[item.path]), self.batch_size)
        return [batch for batch in every if not all(item.work(self.config.hash) in done for item in batch)]


def run_job(
    job: Job,
    pipe: Pipe,
    results: RecordLog[Record],
    batches: Sequence[Sequence[ManifestItem]],
    report: Callable[[ManifestItem, ItemOutcome], None],
) -> None:
    """Run the batches. An item that fails is recorded and the others go on, unless the job is strict.

    Args:
        job: what and where.
        pipe: the pipeline.
        results: the folder's lines.
        batches: from `Job.batches`.
        report: called with every finished item and its result or error; items of equal work share one.

    Raises:
        OutputError: the folder cannot be written to.
        GroundingError: one of `grounding.errors.FATAL`, or the first item's error in a strict job.
    """
    lines: dict[str, list[ManifestItem]] = {}
    for item in job.items:
        lines.setdefault(item.work(job.config.hash), []).append(item)
    done, described = job.done(results), False
    for batch in batches:
        for item, outcome in zip(batch, run_batch(pipe, batch), strict=True):
            work = item.work(job.config.hash)
            if work in done:
                continue
            if job.strict and isinstance(outcome, GroundingError):
                raise outcome
            if not described:
                write_run(job.out, job.config)
                described = True
            if not isinstance(outcome, GroundingError):
                outcome = attempt_one(partial(_saved, job, item, outcome))
            record = _record(job, item, outcome)
            for line in lines[work]:
                results.add(for_item(record, line, job.config))
                report(line, outcome)


def run_batch(pipe: Pipe, batch: Sequence[ManifestItem]) -> list[ItemOutcome]:
    """Run one batch; if it fails as a whole, run its items one by one.

    Returns:
        One result or error per item, in order.

    Raises:
        GroundingError: one of `grounding.errors.FATAL`.
    """
    return attempt_pictures(
        batch,
        name=lambda item: item.path,
        load=lambda item: open_image(item.path),
        run=lambda loaded: _results(pipe, loaded),
    )


def _results(pipe: Pipe, loaded: Sequence[tuple[ManifestItem, Image.Image]]) -> Sequence[Result]:
    if isinstance(pipe, OpenEndedSegmentation):
        return pipe([image for _, image in loaded])
    return pipe([(image, item.expression) for item, image in loaded])


def finish(job: Job, results: RecordLog[Record]) -> list[Record]:
    """Put one line per item into the results, write the COCO files where asked for, and return the job's lines.

    The lines are in the manifest's order and have its present fields; lines that they stand in for are left out.
    """
    known = job.by_work(results)
    records = [for_item(known[item.work(job.config.hash)], item, job.config) for item in job.items]
    results.settle(records, outdated(results.records, records))
    if "coco" in job.formats:
        write_coco(job.out, [one for one in results.records.values() if one["config"] == job.config.hash])
    return records


def parse_formats(words: Sequence[str]) -> tuple[Format, ...]:
    """Parse formats from words, each one format or several with commas between; the result is in the usual order.

    Raises:
        UsageError: one of them is not known.
    """
    names = {name.strip() for word in words for name in word.split(",") if name.strip()}
    unknown = sorted(names - set(FORMATS))
    if unknown:
        raise UsageError(
            f"format {unknown[0]!r} is not known: give some of {', '.join(FORMATS)}, with images and words before "
            "--formats"
        )
    return tuple(form for form in FORMATS if form in names)


def _saved(job: Job, item: ManifestItem, result: Result) -> Result:
    """Write a result's own files."""
    if job.own_formats:
        result.save(job.out, job.stem(item), job.own_formats)
    return result


def _record(job: Job, item: ManifestItem, outcome: ItemOutcome) -> Record:
    if isinstance(outcome, GroundingError):
        return error_record(item, job.config, outcome)
    if isinstance(outcome, OpenEndedResult):
        return open_ended_record(item, job.config, outcome, job.files(item))
    return result_record(item, job.config, outcome, job.files(item))
