"""Idefics3 and SmolVLM: equal tiles of the picture, and behind them a small view of the whole."""

from __future__ import annotations

import re

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids, tile_boxes, whole
from grounding.models.picture import Picture
from grounding.types import IntArray

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


class Idefics3(VLM):
    """Idefics3, SmolVLM (which is of type `idefics3`) and SmolVLM2 (`smolvlm`).

    The picture is enlarged or reduced to a longest edge, stretched to whole tiles and cut into them, row by row. The
    whole, squeezed into one tile, stands last. A marker before each view says its row and column; markers and line ends
    are separators. Pixel shuffle merges patches to cells.
    """

    model_types = ("idefics3", "smolvlm")
    nests_pictures = True

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid for each tile, then the whole picture's; see `VLM.grids`."""
        markers = [(int(row), int(column)) for row, column in _TILE.findall(picture.text)]
        rows, columns = max(markers, default=(0, 0))
        if markers != [(i + 1, j + 1) for i in range(rows) for j in range(columns)]:
            raise ModelError(
                f"the processor of {self.name} marks its tiles {markers[:6]}, expected them row by row: update "
                "transformers"
            )
        return square_grids(positions, [*tile_boxes(picture.size, rows, columns), whole(picture.size)], self.name)
