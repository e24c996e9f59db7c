"""Answer one batch of samples: open the pictures, generate the texts, and keep the error of each sample that failed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evals.plan import batch_seed
from evals.runs import IMAGES
from evals.task import Answer, Sample, SelfAnswer, image_hash
from grounding.errors import GroundingError
from grounding.files import slug, write_bytes
from grounding.runs.attempts import attempt_pictures
from grounding.runs.provenance import short_hash

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from grounding.steering.decoding import Decoding
    from grounding.steering.method import Steering


OwnAnswers = Callable[[Sequence[tuple[Sample, "Image.Image"]]], list[SelfAnswer]]


@dataclass(frozen=True)
class ImageStore:
    """Name the pictures in a run's lines, and keep pictures that are not files in the run folder.

    Attributes:
        root: folder above all pictures, which names are relative to; None where a picture is not a file, and names are
            then relative to the run folder.
        folder: the run folder.
    """

    root: Path | None
    folder: Path

    @classmethod
    def of(cls, samples: Sequence[Sample], folder: Path) -> ImageStore:
        """The image store of a run's samples."""
        files = [one.picture for one in samples if isinstance(one.picture, Path)]
        if len(files) < len(samples):
            return cls(None, folder)
        return cls(Path(os.path.commonpath([file.absolute().parent for file in files])), folder)

    def name(self, sample: Sample) -> str:
        """A picture's path as its line says it."""
        if isinstance(sample.picture, Path):
            path = sample.picture.absolute()
            return str(path.relative_to(self.root) if self.root else path)
        return f"{IMAGES}/{slug(sample.image)}-{short_hash(sample.image, 8)}.png"

    def open(self, sample: Sample) -> Image.Image:
        """Open a picture; one that is not a file is also written to the run folder.

        Raises:
            ImageError: the picture is missing or broken.
            OutputError: it cannot be written.
        """
        from grounding.images import open_image

        if isinstance(sample.picture, Path):
            return open_image(sample.picture)
        picture = sample.picture()
        file = self.folder / self.name(sample)
        if not file.exists():
            content = io.BytesIO()
            picture.save(content, "PNG")
            write_bytes(file, content.getvalue())
        return picture


def answer_batch(
    vlm: VLM,
    batch: Sequence[Sample],
    image_store: ImageStore,
    steering: Steering | None,
    decoding: Decoding,
    own: OwnAnswers | None = None,
) -> list[Answer]:
    """Answer a batch; if it fails as a whole, answer its samples one by one.

    Args:
        vlm: the model.
        batch: the samples.
        image_store: opens their pictures.
        steering: None for the model without steering.
        decoding: how texts are generated.
        own: of a task that answers its samples itself; see `evals.task.SelfAnswering`.

    Returns:
        One answer per sample, in order; a sample that failed has its error.

    Raises:
        GroundingError: one of `grounding.errors.FATAL`.
    """
    from grounding.steering.generate import generate

    def texts(loaded: Sequence[tuple[Sample, Image.Image]]) -> list[SelfAnswer]:
        if own is not None:
            return own(loaded)
        samples = [sample for sample, _ in loaded]
        seeded = replace(decoding, seed=batch_seed(decoding.seed, samples))
        found = generate(vlm, [picture for _, picture in loaded], [one.question for one in samples], steering, seeded)
        return [SelfAnswer(one.text, len(one.token_ids), one.finished) for one in found]

    outcomes = attempt_pictures(batch, lambda sample: sample.image, image_store.open, texts)
    return [_answer(sample, image_store.name(sample), outcome) for sample, outcome in zip(batch, outcomes, strict=True)]


def _answer(sample: Sample, image: str, outcome: SelfAnswer | GroundingError) -> Answer:
    shown = sample.fields, image_hash(sample.picture)
    if isinstance(outcome, GroundingError):
        return Answer(sample.id, image, sample.question, "", 0, False, str(outcome), *shown)
    tokens = outcome.tokens
    # Every score would read something into an empty text: CHAIR the best value, POPE's own parser a yes.
    if not outcome.text.strip():
        reason = f"the answer has no word ({tokens} tokens): a model that overflows in float16 does in bfloat16"
        return Answer(sample.id, image, sample.question, "", tokens, outcome.finished, reason, *shown)
    return Answer(sample.id, image, sample.question, outcome.text, tokens, outcome.finished, None, *shown)
