"""`grounding describe`: what a model says about images, and which nouns the image supports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError
from grounding.faults import attempt_one
from grounding.files import slug, user_path
from grounding.images import open_image
from grounding.pictures import picture_files
from grounding.runs.folder import RESULTS
from grounding.runs.records import RecordLog
from pipelines.commands.render import token_streamer, write_description
from pipelines.describe import FaithfulDescription
from pipelines.manifest import ManifestItem
from pipelines.options import LoadOptions
from pipelines.provenance import DescribeConfig, describe_config
from pipelines.records import Record, caption_record, error_json, image_head, outdated, speed_record
from pipelines.results import UNSTEERED, Description
from pipelines.runs import open_results, write_run

if TYPE_CHECKING:
    from grounding.steering.decoding import Decoding
    from grounding.steering.method import Steering

Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]


@dataclass(frozen=True, kw_only=True)
class DescribeCommand(LoadOptions):
    """Describe images, and flag the nouns that the image does not support.

    The text is printed as it is generated, or at its end where several are searched at once (beams, OPERA). With
    --steer the image is described twice from one seed, unsteered and steered. The nouns of both texts are scored in the
    same way: by where the unsteered model attends under teacher forcing. A noun's support is the geometric mean of its
    parts: gaze (attention mass on the image), sharpness (how few places it falls on) and, with --masks, agreement (how
    well the mask covers the map).

    Exit codes: 0 everything is done; 1 some images of several failed, each with its sentence; 2 refused (that is also
    how a single image fails); 130 interrupted.

    Attributes:
        images: one image or more; also folders, and patterns in quotes.
        question: the prompt; left out, the model's own request for a description.
        steer: a steering method's name, or a YAML file.
        masks: segment every noun.
        threshold: support below which a noun is flagged, in [0, 1]; left out, the model's own where one was measured,
            and no verdict where none was.
        max_new_tokens: the longest text in tokens.
        num_beams: beams; more than 1 cannot be streamed.
        sample: draw tokens instead of taking the likeliest.
        temperature: of the draws.
        top_p: share of the probability mass that is drawn from.
        keep_repeats: let a text go on where it says a sentence again or a few words over and over; left out, it ends
            there, and the repeat is left out.
        out: folder for pictures of the texts, results.jsonl and run.json; nothing is written without it.
        json: print one JSON object per image on stdout, and no text while it is generated.
    """

    images: Images = ()
    question: str | None = None
    steer: str | None = None
    masks: bool = False
    threshold: float | None = None
    max_new_tokens: int = 512
    num_beams: int = 1
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    keep_repeats: bool = False
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Describe the images; see the class for the exit codes."""
        from grounding.steering.decoding import Decoding
        from grounding.steering.method import load_steering

        if not self.images:
            raise UsageError("no image was given, expected one or more: grounding describe photo.jpg")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"a threshold of {self.threshold} was given, expected a support in [0, 1]")
        images = picture_files(self.images)
        steering = None if self.steer is None else load_steering(self.steer)
        decoding = Decoding(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop_at_repeats=not self.keep_repeats,
        )
        config = self._config(steering, decoding)
        items = tuple(ManifestItem(image, user_path(image), "") for image in images)
        if self.out is None:
            return self._describe(items, config, steering, decoding, None)
        with RESULTS.hold(self.out):
            return self._describe(items, config, steering, decoding, open_results(self.out))

    def _describe(
        self,
        items: tuple[ManifestItem, ...],
        config: DescribeConfig,
        steering: Steering | None,
        decoding: Decoding,
        log: RecordLog[Record] | None,
    ) -> int:
        """Describe the items; the lines go to the log, if there is one."""
        if len(items) == 1:
            open_image(items[0].path)  # a bad image is refused before the model is loaded
        pipe = self._load(steering, decoding)
        failed, records = 0, []
        for item, outcome in self._work(pipe, items):
            record = image_head(item, config)
            made: Record | GroundingError
            if isinstance(outcome, GroundingError):
                made = outcome
            else:
                made = attempt_one(partial(self._record, outcome, item.image, record["key"]))
            if isinstance(made, GroundingError):
                failed += 1
                stderr().print(f"failed: {item.image}: {made}")
                record |= {"error": error_json(made)}
            else:
                record |= made
            if log is not None and self.out is not None:
                write_run(self.out, config)
                log.add(record)
            records.append(record)
            if self.json:
                emit(record if isinstance(outcome, GroundingError) else record | {"speed": _speed(outcome)})
        if log is not None:
            log.settle(records, outdated(log.records, records))
        if failed:
            where = f", see their lines in {self.out / RESULTS.records}" if self.out is not None else ""
            stderr().print(f"{failed} of {len(items)} images failed{where}")
        return 1 if failed else 0

    def _config(self, steering: Steering | None, decoding: Decoding) -> DescribeConfig:
        base = self.config_for(self.segmenter if self.masks else "")
        return describe_config(base, self.question, steering, decoding, self.threshold)

    def _load(self, steering: Steering | None, decoding: Decoding) -> FaithfulDescription:
        method, vlm = self.chosen_method(), self.load_vlm()
        segmenter = self.load_segmenter() if self.masks else None
        return FaithfulDescription(vlm, method, segmenter, steering, decoding, self.threshold)

    def _work(
        self, pipe: FaithfulDescription, items: tuple[ManifestItem, ...]
    ) -> Iterator[tuple[ManifestItem, Description | GroundingError]]:
        """Yield every image with its description or its error; the error of a single image is raised."""
        from grounding.steering.generate import searches

        streams = self.num_beams == 1 and not self.json and not searches(pipe.steering)

        def stream(label: str) -> Any:
            stdout().print(f"{label}:" if label == UNSTEERED else f"{label} by {self.steer}:")
            return token_streamer(pipe.vlm.tokenizer)

        def describe(item: ManifestItem) -> Description:
            return pipe(item.path, self.question, stream=stream if streams else None)

        # A live bar is gone while anything is printed; where there is none, one line follows each of several images.
        live = not streams and stderr().is_terminal
        progress = progress_bar(stderr(), brief=True)
        bar = progress.add_task("describe", total=len(items))
        for item in items:
            if not self.json:
                stdout().print(item.image, style="bold")
            with progress if live else nullcontext():
                outcome = attempt_one(partial(describe, item))
                progress.advance(bar)
            if isinstance(outcome, GroundingError):
                if len(items) == 1:
                    raise outcome
            elif not self.json:
                write_description(outcome, stdout(), streamed=streams)
            if not live and len(items) > 1:
                stderr().print(progress.get_renderable())
            yield item, outcome

    def _record(self, description: Description, image: str, key: str) -> Record:
        """Write an image's pictures, and make its line."""
        files: tuple[str, ...] = ()
        if self.out is not None:
            stem = f"{slug(Path(image).stem)}-{key[:8]}"
            description.save(self.out, stem)
            files = description.file_names(stem)
        return {
            "question": description.question,
            "steering": description.steering,
            "seed": description.seed,
            "image_size": list(description.image.size),
            **{label: caption_record(caption) for label, caption in description.captions.items()},
            **({"notes": list(description.notes)} if description.notes else {}),
            "files": list(files),
            "error": None,
        }


def _speed(description: Description) -> dict[str, Any]:
    return {label: speed_record(caption) for label, caption in description.captions.items()}
