"""Ovis2: a small view of the whole picture, and behind it equal tiles."""

from __future__ import annotations

from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids, tile_boxes, whole
from grounding.models.picture import Picture
from grounding.types import IntArray


class Ovis2(VLM):
    """Ovis2.

    The whole picture, squeezed into one tile, stands first. Where the processor cuts pictures into tiles and one tile
    is too small, the picture is squeezed into a canvas of equal tiles, which follow row by row. Each cell is a mixture
    of the embeddings of a visual vocabulary. `<IMG_ATOM>` stands for a cell; the markers around and between the views
    are separators.
    """

    model_types = ("ovis2",)

    @property
    def image_token_id(self) -> int:
        """The id of `<IMG_ATOM>`; the chat template writes `<image>`."""
        return int(self.tokenizer.convert_tokens_to_ids("<IMG_ATOM>"))

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The whole picture's grid, then one for each tile; see `VLM.grids`."""
        rows = picture.text.count("<IMG_ROW>") + 1
        columns = picture.text.count("<IMG_COL>") // rows + 1
        tiles = tile_boxes(picture.size, rows, columns) if rows * columns > 1 else []
        return square_grids(positions, [whole(picture.size), *tiles], self.name)
