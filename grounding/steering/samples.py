"""What head sensitivity is measured on: pictures with a question and the answer whose words are looked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grounding import schema
from grounding.errors import ManifestError
from grounding.manifest import read_manifest
from grounding.types import BoolArray

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class CalibrationSample:
    """One answer to read.

    Attributes:
        image: RGB picture.
        question: what is asked.
        answer: the text that is read behind the question.
        word: a word or phrase of the answer; its first occurrence counts. None is all of the answer.
        mask: bool [H, W] in the picture's size, where the word's object is; only `agreement` needs it.
    """

    image: Image.Image = field(repr=False)
    question: str
    answer: str
    word: str | None = None
    mask: BoolArray | None = field(default=None, repr=False)

    def digest(self) -> bytes:
        """SHA-256 of all of it: pixels, words and mask."""
        words = json.dumps([self.image.size, self.question, self.answer, self.word])
        whole = hashlib.sha256(words.encode())
        whole.update(self.image.convert("RGB").tobytes())
        whole.update(b"" if self.mask is None else np.packbits(self.mask).tobytes())
        return whole.digest()


Source = Callable[[], CalibrationSample]
"""Opens or draws one sample when it is its turn, so that a set needs the memory of one picture."""


@dataclass(frozen=True)
class _Line:
    """A manifest's line; the paths are relative to the manifest."""

    image: str
    question: str
    answer: str
    word: str | None = None
    mask: str | None = None


def manifest_samples(file: Path) -> list[Source]:
    """Samples of JSON lines with `image`, `question`, `answer`, and where wanted `word` and `mask`, a picture's path.

    Args:
        file: the manifest. A pixel of a mask picture belongs to the object where it is not black.

    Raises:
        ManifestError: the file cannot be read, is empty, or a line is wrong; the message names the line. A picture
            that is missing is found out when its sample is opened.
    """
    return [
        partial(_opened, schema.build(_Line, data, where, ManifestError), file.parent)
        for where, data in read_manifest(file, "image, question and answer")
    ]


def _opened(line: _Line, folder: Path) -> CalibrationSample:
    from grounding.errors import ImageError
    from grounding.images import open_image

    image = open_image(folder / Path(line.image).expanduser())
    mask = None
    if line.mask is not None:
        path = folder / Path(line.mask).expanduser()
        mask = np.asarray(np.asarray(open_image(path)).any(axis=-1))
        if mask.shape != (image.height, image.width):
            raise ImageError(
                f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {image.width}x"
                f"{image.height}: expected one size"
            )
    return CalibrationSample(image, line.question, line.answer, line.word, mask)
