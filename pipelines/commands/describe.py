"""`grounding describe`: what a model says about images, and what in them speaks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from grounding.console import emit, stderr, stdout
from grounding.errors import FATAL, GroundingError, ManifestError
from grounding.io import open_image
from pipelines.commands.render import token_streamer, write_description
from pipelines.describe import UNSTEERED, Description, FaithfulDescription
from pipelines.describe_files import caption_record, file_name, speed_record
from pipelines.options import LoadOptions
from pipelines.provenance import DescribeConfig, describe_config, run_config, short_hash
from pipelines.runs import RESULTS, Record, ResultLog, write_run
from pipelines.saving import slug

if TYPE_CHECKING:
    from grounding.steering.decoding import Decoding
    from grounding.steering.method import Steering

Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]


@dataclass(frozen=True, kw_only=True)
class DescribeCommand(LoadOptions):
    """Describe images, and flag the nouns that nothing in the image speaks for.

    The text appears as it is written. With --steer the image is described twice from one seed, unsteered and steered,
    and both texts are judged alike: by where the plain model looks when it reads their nouns. A noun's support is the
    geometric mean of its parts: gaze (how much it looks at the image), sharpness (at how few places) and, with --masks,
    agreement (how well the mask covers the map).

    Exit codes: 0 everything is done; 1 some images of several failed, each with its sentence; 2 refused (that is also
    how a single image fails); 130 interrupted.

    Attributes:
        images: one image or more.
        question: what to ask; left out, the model's own request for a description.
        steer: a steering method's name, or a YAML file.
        masks: cut every noun out with the segmenter.
        threshold: support below which a noun is flagged, in [0, 1]; left out, the model's own where one was measured.
        max_new_tokens: the longest text in tokens.
        num_beams: beams; more than 1 cannot be streamed.
        sample: draw tokens instead of taking the likeliest.
        temperature: of the draws.
        top_p: share of the probability mass that is drawn from.
        out: folder for pictures of the texts, results.jsonl and run.json; nothing is written without it.
        json: print one JSON object an image on stdout, and no text as it comes.
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
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Do it; see the class for the exit codes."""
        from grounding.steering.decoding import Decoding
        from grounding.steering.method import load_steering

        if not self.images:
            raise ManifestError("no image was given, expected one or more: grounding describe photo.jpg")
        images = tuple(dict.fromkeys(self.images))
        steering = None if self.steer is None else load_steering(self.steer)
        decoding = Decoding(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )
        config = self._config(steering, decoding)
        log = None if self.out is None else ResultLog(self.out)
        if len(images) == 1:
            open_image(images[0])  # a bad image is refused before a model is loaded for it
        pipe = self._load(steering, decoding)
        failed = 0
        for image, outcome in self._work(pipe, images):
            record: Record = {"key": short_hash([image, config.hash], 16), "image": image, "config": config.hash}
            if isinstance(outcome, GroundingError):
                failed += 1
                stderr().print(f"failed: {image}: {outcome}")
                record |= {"error": {"kind": type(outcome).__name__, "sentence": str(outcome)}}
            else:
                record |= self._record(outcome, image, record["key"])
            if log is not None and self.out is not None:
                write_run(self.out, config)
                log.add(record)
            if self.json:
                emit(record if isinstance(outcome, GroundingError) else record | {"speed": _speed(outcome)})
        if failed:
            where = f", see their lines in {self.out / RESULTS}" if self.out is not None else ""
            stderr().print(f"{failed} of {len(images)} images failed{where}")
        return 1 if failed else 0

    def _config(self, steering: Steering | None, decoding: Decoding) -> DescribeConfig:
        segmenter = self.segmenter if self.masks else ""
        base = run_config(self.model, segmenter, self.chosen_method(), self.device, self.dtype, self.seed)
        return describe_config(base, self.question, steering, decoding, self.threshold)

    def _load(self, steering: Steering | None, decoding: Decoding) -> FaithfulDescription:
        from transformers.utils.logging import disable_progress_bar

        from grounding.models.load import load
        from grounding.segmenters.load import load_segmenter

        disable_progress_bar()  # a bar over a model's tensors says nothing; downloads have their own
        vlm = load(self.model, self.device, self.dtype, self.device_map)
        segmenter = load_segmenter(self.segmenter, self.device, self.dtype) if self.masks else None
        if vlm.notice:
            stderr().print(f"note: {vlm.notice}")
        pipe = FaithfulDescription(vlm, self.chosen_method(), segmenter, steering, decoding, self.threshold)
        if pipe.threshold is None:
            stderr().print(
                f"note: no threshold of support was measured for {self.model}, so no noun is flagged for a low one: "
                "give --threshold"
            )
        return pipe

    def _work(
        self, pipe: FaithfulDescription, images: tuple[str, ...]
    ) -> Iterator[tuple[str, Description | GroundingError]]:
        """Every image with its description or its error; an error of a single image is raised."""
        streams = self.num_beams == 1 and not self.json

        def stream(label: str) -> Any:
            stdout().print(f"{label}:" if label == UNSTEERED else f"{label} by {self.steer}:")
            return token_streamer(pipe.vlm.tokenizer)

        for image in images:
            if not self.json:
                stdout().print(image, style="bold")
            try:
                description = pipe(image, self.question, stream=stream if streams else None)
            except FATAL:
                raise
            except GroundingError as error:
                if len(images) == 1:
                    raise
                yield image, error
                continue
            if not self.json:
                write_description(description, stdout(), streamed=streams)
            yield image, description

    def _record(self, description: Description, image: str, key: str) -> Record:
        """An image's line, once its pictures are on the disk."""
        files: list[str] = []
        if self.out is not None:
            stem = f"{slug(Path(image).stem)}-{key[:8]}"
            description.save(self.out, stem)
            files = [file_name(stem, label) for label in description.captions]
        return {
            "question": description.question,
            "steering": description.steering,
            "seed": description.seed,
            "image_size": list(description.image.size),
            **{label: caption_record(caption) for label, caption in description.captions.items()},
            "files": files,
            "error": None,
        }


def _speed(description: Description) -> dict[str, Any]:
    return {label: speed_record(caption) for label, caption in description.captions.items()}
