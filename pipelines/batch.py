"""Many items through the pipeline into a folder: failures are recorded one by one, and a run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grounding.errors import GroundingError, UsageError
from grounding.files import shortened, slug
from grounding.images import open_image
from grounding.runs.attempts import attempt_one, attempt_pictures, cut
from grounding.runs.records import RecordLog
from pipelines.manifest import ManifestItem
from pipelines.provenance import RunConfig
from pipelines.records import Record, error_record, result_record
from pipelines.referring import ReferringSegmentation
from pipelines.results import ReferringResult
from pipelines.runs import write_coco_results, write_run
from pipelines.writers import FORMATS, Format, file_name

ItemOutcome = ReferringResult | GroundingError


@dataclass(frozen=True)
class Job:
    """What is to be done, and where it goes.

    Attributes:
        items: images and expressions, in the manifest's order.
        out: the run folder.
        formats: `png` and `npz` are one file per item, `coco` is one file per run.
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

    @property
    def keys(self) -> tuple[str, ...]:
        """One key per item, in order."""
        return tuple(item.key(self.config.hash) for item in self.items)

    def stem(self, item: ManifestItem) -> str:
        """The name of an item's own files, without ending."""
        words = shortened(slug(item.expression), 40, 60)
        return f"{slug(Path(item.image).stem)}-{words}-{item.key(self.config.hash)[:8]}"

    def files(self, item: ManifestItem) -> dict[Format, str]:
        """The names of an item's own files by format."""
        return {form: file_name(self.stem(item), form) for form in self.formats if form != "coco"}

    def is_done(self, item: ManifestItem, results: RecordLog[Record]) -> bool:
        """Whether an item is to be skipped: it has a line without an error, and its files exist."""
        record = results.records.get(item.key(self.config.hash))
        if not self.resume or record is None or record["error"] is not None:
            return False
        return all((self.out / name).is_file() for name in self.files(item).values())

    def batches(self, results: RecordLog[Record]) -> list[tuple[ManifestItem, ...]]:
        """Cut all items into batches, those of one image side by side, and keep the batches with items to do.

        An interrupted batch is run again as a whole, because padding can change a result's last digits.
        """
        first: dict[Path, int] = {}
        for item in self.items:
            first.setdefault(item.path, len(first))
        ordered = sorted(self.items, key=lambda item: first[item.path])
        every = cut(ordered, self.batch_size)
        return [batch for batch in every if not all(self.is_done(item, results) for item in batch)]


def run_job(
    job: Job,
    pipe: ReferringSegmentation,
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
        report: called with every finished item and its result or error.

    Raises:
        OutputError: the folder cannot be written to.
        GroundingError: one of `grounding.errors.FATAL`, or the first item's error in a strict job.
    """
    described = False
    for batch in batches:
        for item, outcome in zip(batch, run_batch(pipe, batch), strict=True):
            if job.is_done(item, results):
                continue
            if job.strict and isinstance(outcome, GroundingError):
                raise outcome
            if not described:
                write_run(job.out, job.config)
                described = True
            if not isinstance(outcome, GroundingError):
                outcome = attempt_one(partial(_saved, job, item, outcome))
            results.add(_record(job, item, outcome))
            report(item, outcome)


def run_batch(pipe: ReferringSegmentation, batch: Sequence[ManifestItem]) -> list[ItemOutcome]:
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
        run=lambda loaded: pipe([(image, item.expression) for item, image in loaded]),
    )


def finish(job: Job, results: RecordLog[Record]) -> list[Record]:
    """Put the lines into the manifest's order, write the COCO file where asked for, and return the job's lines."""
    results.settle(job.keys)
    records = [results.records[key] for key in job.keys]
    if "coco" in job.formats:
        write_coco_results(job.out, records)
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


def _saved(job: Job, item: ManifestItem, result: ReferringResult) -> ReferringResult:
    """Write a result's own files."""
    if files := job.files(item):
        result.save(job.out, job.stem(item), tuple(files))
    return result


def _record(job: Job, item: ManifestItem, outcome: ItemOutcome) -> Record:
    if isinstance(outcome, GroundingError):
        return error_record(item, job.config, outcome)
    return result_record(item, job.config, outcome, tuple(job.files(item).values()))
