"""LFM2-VL: a small picture near its own size; a large one in equal tiles, and behind them a small view of the whole."""

from __future__ import annotations

import re

import numpy as np

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids, tile_boxes, whole
from grounding.models.picture import Picture
from grounding.types import IntArray

_TILE = re.compile(r"<\|img_row_(\d+)_col_(\d+)\|>")


class Lfm2VL(VLM):
    """LFM2-VL.

    A picture within the budget of tokens is stretched to whole cells of 2x2 patches. A larger one is squeezed into
    equal square tiles, row by row, and the whole stands behind them at the size that it would have without tiles.
    Markers between the views are separators. About half of the decoder's layers are short convolutions and have no
    weights.
    """

    model_types = ("lfm2_vl",)
    nests_pictures = True

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid for each tile, then the whole picture's; see `VLM.grids`."""
        rows, columns = max(((int(i), int(j)) for i, j in _TILE.findall(picture.text)), default=(0, 0))
        settings = self.processor.image_processor
        cell = int(settings.encoder_patch_size) * int(settings.downsample_factor)
        cut = rows * columns * (int(settings.tile_size) // cell) ** 2
        tiles, rest = positions[:cut], positions[cut:]
        shape = self._shape(picture.size, cell)
        has_whole = not cut or bool(settings.use_thumbnail)
        if len(tiles) != cut or len(rest) != has_whole * shape[0] * shape[1]:
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for a picture of {picture.size[0]}x{picture.size[1]} "
                f"px in {rows}x{columns} tiles: expected {cut} in tiles and {shape[0]}x{shape[1]} of the whole; use "
                "the model's own processor, with use_image_special_tokens"
            )
        grids = square_grids(tiles, tile_boxes(picture.size, rows, columns), self.name) if cut else ()
        return (*grids, ImageGrid(np.asarray(rest), shape, whole(picture.size))) if has_whole else grids

    def _shape(self, size: tuple[int, int], cell: int) -> tuple[int, int]:
        """(rows, columns) of cells of the whole picture."""
        settings = self.processor.image_processor
        width, height = settings.smart_resize(
            size[1],
            size[0],
            settings.downsample_factor,
            settings.min_image_tokens,
            settings.max_image_tokens,
            settings.encoder_patch_size,
        )
        return int(height) // cell, int(width) // cell
