"""One picture of a batch, as its processor passed it to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from grounding.errors import ModelError

Pictures = Sequence[Image.Image | Sequence[Image.Image]]
"""Per element of a batch one picture, or the pictures of its prompt in order."""


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
    """The pictures of each element as a list."""
    return [[image] if isinstance(image, Image.Image) else list(image) for image in images]


def written_texts(batch: Mapping[str, Any], element: int, image_token: str, pictures: int, tokens: int) -> list[str]:
    """What a processor wrote in place of each image token of one prompt.

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
        return [str(one["replacement"]) for one in reported[element] if one["type"] == "image"]
    if pictures > 1 and tokens != pictures:
        raise ModelError(
            f"the processor does not say which of its {tokens} image tokens belong to which of the {pictures} "
            "pictures: update transformers, or give one picture"
        )
    return [image_token] * pictures if tokens == pictures else [image_token * tokens]
