"""Many items through the pipeline into a folder, one failure at a time, from where an earlier run stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from grounding.errors import FATAL, GroundingError, OutputError
from grounding.images import open_image
from pipelines.manifest import Item
from pipelines.provenance import RunConfig
from pipelines.referring import ReferringResult, ReferringSegmentation
from pipelines.runs import Record, ResultLog, error_record, result_record, write_coco_results, write_run
from pipelines.saving import FORMATS, Format, file_name, slug

Outcome = ReferringResult | GroundingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is to be done, and where it goes.

    Attributes:
        items: pictures and expressions, in the manifest's order.
        out: the folder.
        formats: `png` and `npz` are one file an item, `coco` is one file a run.
        config: of the run.
        batch_size: most items in one forward pass.
        resume: leave out items that are done; else everything is done again.
        strict: end with the first item that fails, without writing it down.
    """

    items: tuple[Item, ...]
    out: Path
    formats: tuple[Format, ...]
    config: RunConfig
    batch_size: int
    resume: bool
    strict: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """One key an item, in order."""
        return tuple(item.key(self.config.hash) for item in self.items)

    def files(self, item: Item) -> dict[Format, str]:
        """The names of an item's own files."""
        stem = (
            f"{slug(Path(item.image).stem)}-{slug(item.expression)[:40].rstrip('-')}-{item.key(self.config.hash)[:8]}"
        )
        return {form: file_name(stem, form) for form in self.formats if form != "coco"}

    def is_done(self, item: Item, results: ResultLog) -> bool:
        """Whether an item's line is there, is no error, and its files are there too."""
        record = results.records.get(item.key(self.config.hash))
        if not self.resume or record is None or record["error"] is not None:
            return False
        return all((self.out / name).is_file() for name in self.files(item).values())

    def batches(self, results: ResultLog) -> list[tuple[Item, ...]]:
        """The batches in which something is left to do.

        Items of one picture stand together, and a batch is cut from *all* items: a batch that was cut off is run again
        as a whole, because a result's last digits depend on what it was batched with.
        """
        first: dict[Path, int] = {}
        for item in self.items:
            first.setdefault(item.path, len(first))
        ordered = sorted(self.items, key=lambda item: first[item.path])
        cut = [tuple(ordered[start : start + self.batch_size]) for start in range(0, len(ordered), self.batch_size)]
        return [batch for batch in cut if not all(self.is_done(item, results) for item in batch)]


def run_job(
    job: Job,
    pipe: ReferringSegmentation,
    results: ResultLog,
    batches: Sequence[Sequence[Item]],
    report: Callable[[Item, Outcome], None],
) -> None:
    """Do the batches. An item that fails is written down and the rest goes on, unless the job is strict.

    Args:
        job: what and where.
        pipe: the pipeline.
        results: the folder's lines.
        batches: from `Job.batches`.
        report: told every item that is finished, with its result or its error.

    Raises:
        OutputError: the folder cannot be written to.
        GroundingError: one of `FATAL`, or in a strict job the first item's that fails.
    """
    noted = False
    for batch in batches:
        for item, outcome in zip(batch, run_batch(pipe, batch), strict=True):
            if job.is_done(item, results):
                continue
            if job.strict and isinstance(outcome, GroundingError):
                raise outcome
            if not noted:
                write_run(job.out, job.config)
                noted = True
            results.add(_keep(job, item, outcome))
            report(item, outcome)


def run_batch(pipe: ReferringSegmentation, batch: Sequence[Item]) -> list[Outcome]:
    """Results or errors of a batch, in its order; a batch that fails as a whole is tried item by item.

    Raises:
        GroundingError: one of `FATAL`.
    """
    pictures: dict[Path, Image.Image | GroundingError] = {}
    for item in batch:
        if item.path not in pictures:
            try:
                pictures[item.path] = open_image(item.path)
            except GroundingError as error:
                pictures[item.path] = error
    found: dict[int, Outcome] = {}
    pairs: dict[int, tuple[Image.Image, str]] = {}
    for index, item in enumerate(batch):
        picture = pictures[item.path]
        if isinstance(picture, GroundingError):
            found[index] = picture
        else:
            pairs[index] = (picture, item.expression)
    found |= zip(pairs, _results(pipe, list(pairs.values())), strict=True)
    return [found[index] for index in range(len(batch))]


def finish(job: Job, results: ResultLog) -> list[Record]:
    """Put the lines into the manifest's order, write the COCO file where asked for, and return the job's lines."""
    results.settle(job.keys)
    records = [results.records[key] for key in job.keys]
    if "coco" in job.formats:
        write_coco_results(job.out, records)
    return records


def parse_formats(words: Sequence[str]) -> tuple[Format, ...]:
    """Formats from words that may hold several with commas between, in their usual order.

    Raises:
        OutputError: one of them is not known.
    """
    names = {name.strip() for word in words for name in word.split(",") if name.strip()}
    unknown = sorted(names - set(FORMATS))
    if unknown:
        raise OutputError(
            f"format {unknown[0]!r} is not known: give some of {', '.join(FORMATS)}, with images and words before "
            "--formats"
        )
    return tuple(form for form in FORMATS if form in names)


def _results(pipe: ReferringSegmentation, pairs: list[tuple[Image.Image, str]]) -> list[Outcome]:
    if not pairs:
        return []
    try:
        return list(pipe(pairs))
    except FATAL:
        raise
    except GroundingError as error:
        if len(pairs) == 1:
            return [error]
        log.info("a batch of %d failed (%s); its items are tried one by one", len(pairs), error)
    return [_results(pipe, [pair])[0] for pair in pairs]


def _keep(job: Job, item: Item, outcome: Outcome) -> Record:
    if isinstance(outcome, GroundingError):
        return error_record(item, job.config, outcome)
    names = job.files(item)
    stem = next((name.removesuffix(file_name("", form)) for form, name in names.items()), "")
    if names:
        outcome.save(job.out, stem, tuple(names))
    return result_record(item, job.config, outcome, tuple(names.values()))
