"""`grounding discover`: list what is in images and segment all of it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError
from grounding.images import open_image
from grounding.runs.folder import RESULTS
from grounding.runs.provenance import settings_text
from grounding.steering.decoding import Decoding
from grounding.steering.method import Steering, load_steering
from pipelines.batch import ItemOutcome, Job, finish, parse_formats, run_job
from pipelines.manifest import ManifestItem, items_from_images, items_from_manifest
from pipelines.open_ended import DEFAULT_DECODING, OpenEndedSegmentation
from pipelines.open_ended_options import DiscoveryOptions, vocabulary_in
from pipelines.options import ModelOptions
from pipelines.provenance import OpenEndedConfig, embedder_identity
from pipelines.records import Record
from pipelines.runs import open_results

Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]


@dataclass(frozen=True, kw_only=True)
class DiscoverCommand(DiscoveryOptions, ModelOptions):
    """List the objects of images with a model, and segment each of them.

    Every image becomes one line of OUT/results.jsonl: its instances with name, score, mask and points, what the model
    answered, and how often the models ran. A manifest that was interrupted is resumed; images named on the command
    line are always done again. Without options one question is asked about the whole image; --multi-scale and
    --question-ensemble find more at the cost of more runs.

    Exit codes: 0 everything is done; 1 some images of several failed, each with its sentence in its line; 2 refused,
    with nothing written (that is also how a single image fails); 130 interrupted.

    Attributes:
        images: one image or more; also folders, and patterns in quotes.
        manifest: JSON lines with `image` (relative to the manifest), instead of images; `-` reads them from stdin.
        vocabulary: a category list: names are mapped to it by their words, and by --embedder; text with one category a
            line and its synonyms behind it with commas, or JSON with `categories` as in COCO's annotations.
        out: folder for the results.
        formats: `png` (picture, points, masks and names), `mask` (white on black, in the image's size), `cutout` (the
            image, transparent off the masks), `coco` (all masks in coco_results.json), `npz` (the map of every name),
            `explain` (every name with its map and first mask, as a picture and as JSON).
        steer: a steering method for the answers: its name, or a YAML file.
        max_new_tokens: the longest answer in tokens; one that repeats itself ends there.
        sample: draw tokens instead of taking the likeliest.
        temperature: of the draws.
        top_p: share of the probability mass that is drawn from.
        json: print the images' lines on stdout, one JSON object each, in the order of the images.
    """

    images: Images = ()
    manifest: Path | None = None
    vocabulary: Path | None = None
    out: Path = Path("out")
    formats: tuple[str, ...] = ("png", "coco")
    steer: str | None = None
    max_new_tokens: int = DEFAULT_DECODING.max_new_tokens
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    json: bool = False

    def run(self) -> int:
        """Segment the images; see the class for the exit codes."""
        items = self._items()
        formats = parse_formats(self.formats)
        steering = None if self.steer is None else load_steering(self.steer)
        config = self._config(steering)
        alone = self.manifest is None and len(items) == 1
        job = Job(items, self.out, formats, config, self.batch_size, self.manifest is not None, strict=alone)
        with RESULTS.hold(self.out):
            return self._fill(job, steering)

    def _items(self) -> tuple[ManifestItem, ...]:
        if self.manifest is None:
            return items_from_images(self.images)
        if self.images:
            from grounding.errors import UsageError

            raise UsageError(f"both --manifest and {self.images[0]!r} were given: give a manifest, or images")
        return items_from_manifest(self.manifest, ("image",))

    def _decoding(self) -> Decoding:
        return Decoding(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop_at_repeats=True,
        )

    def _config(self, steering: Steering | None) -> OpenEndedConfig:
        settings, vocabulary = self.settings(), vocabulary_in(self.vocabulary)[1]
        return OpenEndedConfig(
            **asdict(self.config()),
            settings=settings,
            steering=steering.name if steering else None,
            steering_text=settings_text(steering) if steering else None,
            decoding=self._decoding(),
            vocabulary=vocabulary,
            embedder=None if self.embedder is None else embedder_identity(self.embedder),
            top_categories=self.top_categories,
        )

    def _fill(self, job: Job, steering: Steering | None) -> int:
        """Do what is to be done in the folder, and print the lines."""
        lines = open_results(self.out)
        done = job.done(lines)
        batches = job.batches(done)
        before = sum(item.work(job.config.hash) in done for item in job.items)
        started = time.perf_counter()
        if batches:
            if job.strict:
                open_image(job.items[0].path)  # a bad image is refused before the model is loaded
            pipe = self._load(steering)
            with progress_bar(stderr()) as progress:
                bar = progress.add_task("discover", total=len(job.items) - before)

                def report(item: ManifestItem, outcome: ItemOutcome) -> None:
                    progress.advance(bar)
                    if isinstance(outcome, GroundingError):
                        stderr().print(f"failed: {item.image}: {outcome}")

                run_job(job, pipe, lines, batches, report)
        records = finish(job, lines)
        failed = sum(record["error"] is not None for record in records)
        for record in records:
            if self.json:
                emit(record)
            elif record["error"] is None:
                stdout().print(_line(record, self.out), markup=False, highlight=False)
        parts = [f"{len(job.items) - before - failed} done in {time.perf_counter() - started:.1f} s"]
        parts += [f"{before} were there already"] if before else []
        parts += [f"{failed} failed, see their lines in {self.out / RESULTS.records}"] if failed else []
        stderr().print("; ".join(parts))
        return 1 if failed else 0

    def _load(self, steering: Steering | None) -> OpenEndedSegmentation:
        import torch

        torch.manual_seed(self.seed)
        categories = self.finder(vocabulary_in(self.vocabulary)[0])
        method, vlm = self.chosen_method(), self.load_vlm()
        segmenter = self.load_segmenter()
        return OpenEndedSegmentation(
            vlm, segmenter, method, self.settings(), self._decoding(), steering, categories, self.batch_size
        )


def _line(record: Record, out: Path) -> str:
    """One image as text: its first file, or its name, what was found with scores, and the model's runs."""
    name = str(out / record["files"][0]) if record["files"] else record["image"]
    found = ", ".join(f"{one['name']} {one['score']:.2f}" for one in record["segments"]) or "nothing found"
    runs = record["runs"]["model"]
    notes = (f"note: {one}" for one in record.get("notes", ()))
    return "; ".join((f"{name}: {found}", f"{runs} model runs", *notes))
