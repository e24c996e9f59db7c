"""Define and read the samples by which heads are ranked: a picture and an expression, and what some rules need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
class HeadSample:
    """Hold one picture and one expression.

    Attributes:
        image: RGB image.
        expression: the words.
        other: an expression for something else in the picture; needed by `contrast`.
        mask: bool [H, W] of the image's size, true on what the expression names; needed by `agreement` and `causal`.
        question: the prompt of `causal`; None for the model's own request for a description.
        answer: a text about the picture that names the thing, such as "yes"; needed by `causal`.
        word: the word or phrase of the answer that is measured; None measures the whole answer.
    """

    image: Image.Image = field(repr=False)
    expression: str
    other: str | None = None
    mask: BoolArray | None = field(default=None, repr=False)
    question: str | None = None
    answer: str | None = None
    word: str | None = None

    def digest(self) -> bytes:
        """Compute the SHA-256 of pixels, words and mask."""
        return picture_digest(
            self.image, [self.expression, self.other, self.question, self.answer, self.word], self.mask
        )


Source = Callable[[], HeadSample]
"""A function that opens or draws one sample, so that a set of samples needs the memory of one image."""


@dataclass(frozen=True)
class _Line:
    """Hold one line of a manifest; paths are relative to the manifest's folder."""

    image: str
    expression: str
    other: str | None = None
    mask: str | None = None
    question: str | None = None
    answer: str | None = None
    word: str | None = None


def manifest_samples(file: Path) -> list[Source]:
    """Read samples from JSON lines with `image` and `expression`, and optionally the other fields of `HeadSample`.

    Args:
        file: the manifest; `image` and `mask` are paths of images. A mask is true where its pixel is not black. A line
            without `other` takes the next different expression in the file, which names nothing in particular.

    Returns:
        One source per line. It raises ImageError when it is called and its image is missing or its mask is of
        another size.

    Raises:
        ManifestError: the file cannot be read, is empty, or has an invalid line; the message names the line.
    """
    lines = [
        schema.build(_Line, data, where, ManifestError) for where, data in read_manifest(file, "image and expression")
    ]
    said = [line.expression for line in lines]
    found: list[Source] = []
    for index, line in enumerate(lines):
        others = [one for one in (*said[index + 1 :], *said[:index]) if one != line.expression]
        other = line.other or (others[0] if others else None)
        found.append(partial(_opened, replace(line, other=other), file.parent))
    return found


def _opened(line: _Line, folder: Path) -> HeadSample:
    image, mask = open_masked(folder, line.image, line.mask)
    return HeadSample(image, line.expression, line.other, mask, line.question, line.answer, line.word)
