"""Llama 4: equal tiles of the picture padded to a canvas, and behind them a small view of the whole."""

from __future__ import annotations

from typing import Any

from grounding.attention.introspect import decoder_stack
from grounding.compat import complete_llama4_output
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids, whole
from grounding.models.picture import Picture
from grounding.text.parse import NounFinder
from grounding.types import IntArray


class Llama4(VLM):
    """Llama 4 Scout and Maverick.

    A picture keeps its aspect, is padded at the right and below to a canvas of square tiles and cut into them, row by
    row, so that cells of the last tiles may lie beyond it. The whole, squeezed into one tile, stands last. `<|patch|>`
    stands for a cell, which is 2x2 patches; the markers between the views are separators. Three of four decoder layers
    see a chunk of the sequence only: a key of another chunk has weight 0.
    """

    model_types = ("llama4",)

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        super().__init__(model, processor, name, finder)
        complete_llama4_output(model)

    @property
    def decoder(self) -> Any:
        """The language model's module whose `.layers` are the decoder blocks."""
        return decoder_stack(self.model).module

    @property
    def image_token_id(self) -> int:
        """The id of `<|patch|>`; the chat template writes `<|image|>`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.img_patch_token))

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid for each tile, then the whole picture's; see `VLM.grids`."""
        rows = picture.text.count(self.processor.tile_global_token)
        columns = picture.text.count(self.processor.tile_token) // max(rows, 1) + 1
        settings = self.processor.image_processor
        side, enlarges = int(settings.size["height"]), bool(settings.resize_to_max_canvas)
        tiles = canvas_boxes(picture.size, max(rows, 1), columns, side, enlarges)
        return square_grids(positions, [*tiles, whole(picture.size)] if rows else tiles, self.name)


def canvas_boxes(size: tuple[int, int], rows: int, columns: int, side: int, enlarges: bool) -> list[Box]:
    """The boxes of the tiles of a canvas into whose top left corner a picture was fitted, in pixels of the original.

    Args:
        size: (width, height) of the original.
        rows: rows of tiles.
        columns: columns of tiles.
        side: side of a tile in pixels.
        enlarges: whether a picture is enlarged to the canvas; otherwise to the side of a tile at most.
    """
    from transformers.models.llama4.image_processing_llama4 import get_max_res_without_distortion

    width, height = size
    target = (rows * side, columns * side)
    if not enlarges:
        target = (min(max(height, side), target[0]), min(max(width, side), target[1]))
    resized = [max(edge, 1) for edge in get_max_res_without_distortion((height, width), target)]
    tall, wide = side * height / resized[0], side * width / resized[1]
    return [(j * wide, i * tall, (j + 1) * wide, (i + 1) * tall) for i in range(rows) for j in range(columns)]
