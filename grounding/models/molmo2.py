"""Molmo2: a small view of the whole picture, and behind it overlapping crops of a larger one joined to one grid."""

from __future__ import annotations

import math

import numpy as np

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.chat import Rendered
from grounding.models.own_words import OwnWords
from grounding.models.picture import Picture
from grounding.types import IntArray


class Molmo2(VLM):
    """Molmo2.

    The whole picture, squeezed into one square, stands first. Behind it stands a larger canvas, read in crops that
    overlap; of the overlaps each patch is kept once, so that the crops make one grid. A cell pools 2x2 patches; where
    their number is odd, the cells of one or both borders reach beyond the picture. `<im_patch>` stands for a cell; the
    token behind each row and the markers are separators. All image tokens of a prompt see each other.

    Notes:
        The question for an expression is that of the model card (huggingface.co/allenai/Molmo2-4B, "Pointing").
    """

    model_types = ("molmo2",)
    family_words = OwnWords(prompt="Point to {expression}.")

    @property
    def image_token_id(self) -> int:
        """The id of `<im_patch>`; the chat template writes `<|image|>`."""
        return int(self.tokenizer.convert_tokens_to_ids("<im_patch>"))

    def render(self, template: str, expression: str, pictures: int) -> Rendered:
        """The prompt with the token that the processor puts before it."""
        rendered = super().render(template, expression, pictures)
        first = str(self.tokenizer.bos_token or self.tokenizer.eos_token)
        if rendered.text.startswith(first):
            return rendered
        start, end = rendered.span
        return Rendered(first + rendered.text, (start + len(first), end + len(first)))

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The whole picture, then its crops as one grid; see `VLM.grids`."""
        from transformers.models.molmo2.image_processing_molmo2 import compute_crop_geometry

        settings = self.processor.image_processor
        side, patch = int(settings.size["height"]), int(settings.patch_size)
        pool = (int(settings.pooling_size[0]), int(settings.pooling_size[1]))
        canvas = compute_crop_geometry(
            picture.size[1], picture.size[0], settings.max_crops, settings.overlap_margins, side, patch
        )[2:]
        views = [pooled(picture.size, (edges[0] // patch, edges[1] // patch), pool) for edges in ((side, side), canvas)]
        counts = [rows * columns for (rows, columns), _ in views]
        told = [int(number) for number in picture.entry("image_grids")]
        if told != [number for shape, _ in views for number in shape] or sum(counts) != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens in grids {told}, but its image processor's settings "
                f"say {counts[0]} and {counts[1]} cells: use the model's own processor"
            )
        parts = np.split(positions, [counts[0]])
        return tuple(ImageGrid(own, shape, box) for own, (shape, box) in zip(parts, views, strict=True))

    def _adds_special_tokens(self, text: str) -> bool:
        return False  # the prompt has its first token


def pooled(size: tuple[int, int], patches: tuple[int, int], pool: tuple[int, int]) -> tuple[tuple[int, int], Box]:
    """The cells of a picture whose patches were pooled, padded on both sides where they do not divide.

    Args:
        size: (width, height) of the picture in pixels.
        patches: (rows, columns) of patches that it was stretched to.
        pool: (rows, columns) of patches that make a cell.

    Returns:
        ((rows, columns) of cells, the box that they cover in pixels of the picture).
    """
    cells = (math.ceil(patches[0] / pool[0]), math.ceil(patches[1] / pool[1]))
    patch_y, patch_x = size[1] / patches[0], size[0] / patches[1]
    top = -((cells[0] * pool[0] - patches[0]) // 2) * patch_y
    left = -((cells[1] * pool[1] - patches[1]) // 2) * patch_x
    return cells, (left, top, left + cells[1] * pool[1] * patch_x, top + cells[0] * pool[0] * patch_y)
