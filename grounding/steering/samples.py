"""Define and read the samples of calibration: an image, a question and an answer to be teacher-forced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grounding import schema
from grounding.errors import ManifestError
from grounding.manifest import read_manifest
from grounding.masked_picture import open_masked, picture_digest
from grounding.types import BoolArray

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CalibrationSample:
    """Hold one image, question and answer.

    Attributes:
        image: RGB image.
        question: the prompt's text; None for the model's own request for a description.
        answer: the text that is teacher-forced after the question.
        word: a word or phrase of the answer, of which the first occurrence is measured; None measures the whole answer.
        mask: bool [H, W] of the image's size, true on the word's object; required by `agreement` only.
    """

    image: Image.Image = field(repr=False)
    question: str | None
    answer: str
    word: str | None = None
    mask: BoolArray | None = field(default=None, repr=False)

    def digest(self) -> bytes:
        """Compute the SHA-256 of pixels, words and mask."""
        return picture_digest(self.image, [self.question, self.answer, self.word], self.mask)


Source = Callable[[], CalibrationSample]
"""A function that opens or draws one sample, so that a set of samples needs the memory of one image."""


@dataclass(frozen=True)
class _Line:
    """Hold one line of a manifest; paths are relative to the manifest's folder."""

    image: str
    answer: str
    question: str | None = None
    word: str | None = None
    mask: str | None = None


def manifest_samples(file: Path) -> list[Source]:
    """Read samples from JSON lines with the keys `image`, `answer` and, optionally, `question`, `word` and `mask`.

    Args:
        file: the manifest; `image` and `mask` are paths of images. A mask is true where its pixel is not black.

    Returns:
        One source per line. It raises ImageError when it is called and its image is missing or its mask is of
        another size.

    Raises:
        ManifestError: the file cannot be read, is empty, or has an invalid line; the message names the line.
    """
    return [
        partial(_opened, schema.build(_Line, data, where, ManifestError), file.parent)
        for where, data in read_manifest(file, "image and answer")
    ]


def _opened(line: _Line, folder: Path) -> CalibrationSample:
    image, mask = open_masked(folder, line.image, line.mask)
    return CalibrationSample(image, line.question, line.answer, line.word, mask)
