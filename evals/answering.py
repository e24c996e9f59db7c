"""One batch of samples put to a model: pictures opened, texts generated, and what failed written down beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evals.plan import batch_seed
from evals.runs import IMAGES
from evals.tasks.base import Answer, Sample
from grounding.errors import FATAL, GroundingError
from grounding.files import write_bytes
from pipelines.provenance import short_hash
from pipelines.saving import slug

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from grounding.steering.decoding import Decoding, Generated
    from grounding.steering.method import Steering


@dataclass(frozen=True)
class ImageStore:
    """What pictures are called in a run's lines, and where those that are no files are kept.

    Attributes:
        root: folder above every picture that is a file; None where one is not, and names are relative to the run.
        folder: the run folder.
    """

    root: Path | None
    folder: Path

    @classmethod
    def of(cls, samples: Sequence[Sample], folder: Path) -> ImageStore:
        """The gallery of a run."""
        files = [one.picture for one in samples if isinstance(one.picture, Path)]
        if len(files) < len(samples):
            return cls(None, folder)
        return cls(Path(os.path.commonpath([file.absolute().parent for file in files])), folder)

    def name(self, sample: Sample) -> str:
        """The path that a line says."""
        if isinstance(sample.picture, Path):
            path = sample.picture.absolute()
            return str(path.relative_to(self.root) if self.root else path)
        return f"{IMAGES}/{slug(sample.image)}-{short_hash(sample.image, 8)}.png"

    def open(self, sample: Sample) -> Image.Image:
        """The picture; one that is no file is kept in the run folder.

        Raises:
            ImageError: it is missing or broken.
            OutputError: it cannot be kept.
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
    vlm: VLM, batch: Sequence[Sample], image_store: ImageStore, steering: Steering | None, decoding: Decoding
) -> list[Answer]:
    """The answers to a batch, in its order; a batch that fails as a whole is tried sample by sample.

    Raises:
        GroundingError: one of `FATAL`.
    """
    pictures: dict[str, Image.Image | GroundingError] = {}
    for one in batch:
        if one.image not in pictures:
            try:
                pictures[one.image] = image_store.open(one)
            except FATAL:
                raise
            except GroundingError as error:
                pictures[one.image] = error
    whole = [one for one in batch if not isinstance(pictures[one.image], GroundingError)]
    texts = _texts(vlm, whole, pictures, steering, decoding)
    found = {one.id: text for one, text in zip(whole, texts, strict=True)}
    return [_answer(one, image_store.name(one), found.get(one.id, pictures[one.image])) for one in batch]


def _texts(
    vlm: VLM,
    samples: Sequence[Sample],
    pictures: Mapping[str, Image.Image | GroundingError],
    steering: Steering | None,
    decoding: Decoding,
) -> list[Generated | GroundingError]:
    from grounding.steering.generate import generate

    if not samples:
        return []
    seeded = replace(decoding, seed=batch_seed(decoding.seed, samples))
    shown = [picture for one in samples if not isinstance(picture := pictures[one.image], GroundingError)]
    try:
        return list(generate(vlm, shown, [one.question for one in samples], steering, seeded))
    except FATAL:
        raise
    except GroundingError as error:
        if len(samples) == 1:
            return [error]
    return [_texts(vlm, [one], pictures, steering, decoding)[0] for one in samples]


def _answer(sample: Sample, image: str, found: object) -> Answer:
    if isinstance(found, GroundingError):
        return Answer(sample.id, image, sample.question, "", 0, False, str(found), sample.fields)
    text: Generated = found  # type: ignore[assignment]
    return Answer(sample.id, image, sample.question, text.text, len(text.token_ids), text.finished, None, sample.fields)
