"""One picture or clip of a batch, as a user gives it and as its processor passed it to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from grounding.errors import ImageError, ModelError
from grounding.images import as_rgb

FPS = 2.0
"""Frames a second of a clip that does not say; Qwen2-VL's report (arXiv:2409.12191, section 2.1) samples as many."""


@dataclass(frozen=True)
class Clip:
    """Frames of one size, in the order of time.

    Attributes:
        frames: pictures, sampled as the model is to see them; none is left out. Those of another mode than RGB are
            converted as pictures from files are; see `grounding.images.as_rgb`.
        fps: frames a second, which models that write times into the prompt, or count positions in seconds, read.

    Raises:
        ImageError: there is no frame, a frame is no Pillow picture or cannot be converted, frames have several sizes,
            or `fps` is not positive.
    """

    frames: tuple[Image.Image, ...]
    fps: float = FPS

    def __post_init__(self) -> None:
        for frame in self.frames:
            if not isinstance(frame, Image.Image):
                raise ImageError(
                    f"a clip needs frames that are Pillow pictures, got {type(frame).__name__}: convert an array of "
                    "[height, width, 3] bytes with PIL.Image.fromarray"
                )
        frames = tuple(frame if frame.mode == "RGB" else as_rgb(frame, "a clip's frame") for frame in self.frames)
        object.__setattr__(self, "frames", frames)
        sizes = sorted({frame.size for frame in self.frames})
        if len(sizes) != 1:
            raise ImageError(f"a clip needs frames of one size, got {sizes or 'no frame'}")
        if not 0 < self.fps < float("inf"):
            raise ImageError(f"a clip needs a positive number of frames a second, got {self.fps}")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its frames in pixels."""
        return self.frames[0].size

    @property
    def width(self) -> int:
        """Of its frames, in pixels."""
        return self.frames[0].width

    @property
    def height(self) -> int:
        """Of its frames, in pixels."""
        return self.frames[0].height


Pictures = Sequence[Image.Image | Sequence[Image.Image] | Clip]
"""Per element of a batch one picture, or the pictures of its prompt in order; for a `ClipReader` one clip, or its
frames."""


@dataclass(frozen=True)
class Picture:
    """What a family needs to know of a picture to say where its cells lie.

    Attributes:
        size: (width, height) of the original in pixels.
        index: its place among all pictures of the batch, by element and then in the order of the prompt; where the
            processor's outputs have one entry per picture, the index of that entry.
        element: its prompt's place in the batch.
        number: its place in the prompt.
        alone: whether it is the only picture of its prompt.
        inputs: the processor's output for the batch.
        text: what the processor wrote in place of the prompt's image token.
    """

    size: tuple[int, int]
    index: int
    element: int
    number: int
    alone: bool
    inputs: Mapping[str, Any]
    text: str = ""

    def entry(self, name: str) -> Any:
        """The picture's entry of a processor's output that has one per picture.

        Raises:
            ModelError: the output lacks it.
        """
        values = self.inputs.get(name)
        if values is None or self.index >= len(values):
            raise ModelError(
                f"the processor made no {name!r} of picture {self.index}, which this kind of model needs; it made "
                f"{', '.join(self.inputs)}: load the model with its own processor"
            )
        return values[self.index]


def nested(images: Pictures) -> list[list[Image.Image]]:
    """The pictures of each element as a list.

    Raises:
        ImageError: a clip is among them.
    """
    found = []
    for own in images:
        if isinstance(own, Clip):
            raise ImageError(
                "a clip was given to a model that was loaded for pictures: read it with "
                "grounding.models.clips.clip_reader(model)"
            )
        found.append([own] if isinstance(own, Image.Image) else list(own))
    return found


def written_texts(batch: Mapping[str, Any], element: int, image_token: str, pictures: int, tokens: int) -> list[str]:
    """What a processor wrote in place of each image token, or clip's token, of one prompt.

    Newer processors report it. An older one is taken to repeat the image token.

    Args:
        batch: the processor's output.
        element: the prompt's place in the batch.
        image_token: the text of an image token.
        pictures: how many pictures the prompt has.
        tokens: how many image tokens the processor's output has for the prompt.

    Raises:
        ModelError: the processor does not report it and the prompt has several pictures.
    """
    reported = batch.get("text_replacement_offsets")
    if reported is not None:
        return [str(one["replacement"]) for one in reported[element] if one["type"] in ("image", "video")]
    if pictures > 1 and tokens != pictures:
        raise ModelError(
            f"the processor does not say which of its {tokens} image tokens belong to which of the {pictures} "
            "pictures: update transformers, or give one picture"
        )
    return [image_token] * pictures if tokens == pictures else [image_token * tokens]
