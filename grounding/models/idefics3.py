"""Idefics3 and SmolVLM: equal tiles of the picture, and behind them a small view of the whole."""

from __future__ import annotations

import re
from typing import ClassVar

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.clips import ClipReader, SquareFrames
from grounding.models.geometry import square_grids, tile_boxes, whole
from grounding.models.picture import Picture
from grounding.types import IntArray

_TILE = re.compile(r"<row_(\d+)_col_(\d+)>")


class Idefics3(VLM):
    """Idefics3, and SmolVLM, which is of its type.

    The picture is enlarged or reduced to a longest edge, stretched to whole tiles and cut into them, row by row. The
    whole, squeezed into one tile, stands last. A marker before each view says its row and column; markers and line ends
    are separators. Pixel shuffle merges patches to cells.
    """

    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
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


class SmolVLMClips(SquareFrames):
    """Clips of SmolVLM2: one view for each frame, behind its time; texts around them are separators."""

    model_types = ()
    nests_pictures = True

    @property
    def cells_per_frame(self) -> int:
        """Cells of each frame."""
        return int(self.processor.image_seq_len)


class SmolVLM(Idefics3):
    """SmolVLM2, which reads pictures as Idefics3 does, and clips."""

    model_types = ("smolvlm",)
    clip_reader_class: ClassVar[type[ClipReader]] = SmolVLMClips
