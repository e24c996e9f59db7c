"""Gemma 3: one square view of the whole picture, and with pan and scan also crops of a long one."""

from __future__ import annotations

import math
from itertools import pairwise

from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids, whole
from grounding.models.picture import Picture
from grounding.types import IntArray


class Gemma3(VLM):
    """Gemma 3 with a vision tower.

    The picture is squeezed into a square, whose patches are averaged to 16x16 cells. Image tokens of one view see each
    other in both directions, so that a cell's row has weight on later cells too. Local layers see a window of keys; a
    key outside has weight 0. With `do_pan_and_scan` crops of a long picture follow behind the whole; the sentence
    between them counts as separators.
    """

    model_types = ("gemma3",)
    nests_pictures = True

    @property
    def image_token_id(self) -> int:
        """The id of the soft tokens, which the processor writes between those for begin and end of an image."""
        return int(self.tokenizer.image_token_id)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The whole picture's grid, then one for each crop; see `VLM.grids`."""
        crops = len(positions) // int(self.model.config.mm_tokens_per_image) - 1
        return square_grids(positions, [whole(picture.size), *crop_boxes(picture.size, crops)], self.name)


def crop_boxes(size: tuple[int, int], count: int) -> list[Box]:
    """The boxes of pan and scan: `count` crops along the longer side of a picture of (width, height) pixels."""
    width, height = size
    length = max(width, height)
    edges = [min(i * math.ceil(length / count), length) for i in range(count + 1)] if count else []
    if width >= height:
        return [(float(a), 0.0, float(b), float(height)) for a, b in pairwise(edges)]
    return [(0.0, float(a), float(width), float(b)) for a, b in pairwise(edges)]
