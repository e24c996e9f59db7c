"""Phi-4 multimodal: tiles of a larger picture joined to one grid, and behind them a small view of the whole."""

from __future__ import annotations

import math

import numpy as np

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.picture import Picture
from grounding.types import IntArray


class Phi4Multimodal(VLM):
    """Phi-4 multimodal, asked about pictures.

    A picture keeps its aspect, is padded at the right and below to a canvas of square tiles and read in them; the model
    joins their cells to one grid without the padding and ends each row with a token. Behind a separator follows the
    whole canvas, padding included, reduced to one tile; its rows end with a token too. A cell is the mean of 2x2
    patches.
    """

    model_types = ("phi4_multimodal",)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The grid of the tiles, then the whole canvas's; see `VLM.grids`."""
        settings = self.processor.image_processor
        tile, patch = int(settings.size["height"]), int(settings.patch_size)
        side = math.ceil(tile // patch / 2)
        height, width = (int(edge) for edge in picture.entry("image_sizes"))
        (rows, columns), box, canvas = padded_grid(picture.size, (height, width), patch)
        expected = rows * (columns + 1) + 1 + side * (side + 1)
        if len(positions) != expected:
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for {rows}x{columns} cells and a view of {side}x{side}: "
                f"expected {expected} with the ends of rows; use the model's own processor"
            )
        cut = rows * (columns + 1)
        tiles = positions[:cut].reshape(rows, columns + 1)[:, :columns]
        view = positions[cut + 1 :].reshape(side, side + 1)[:, :side]
        return (
            ImageGrid(np.ascontiguousarray(tiles).reshape(-1), (rows, columns), box),
            ImageGrid(np.ascontiguousarray(view).reshape(-1), (side, side), canvas),
        )


def padded_grid(size: tuple[int, int], canvas: tuple[int, int], patch: int) -> tuple[tuple[int, int], Box, Box]:
    """The cells of a picture that was fitted into the top left corner of a canvas.

    Args:
        size: (width, height) of the original.
        canvas: (height, width) of the canvas in pixels.
        patch: side of a patch in pixels; a cell is 2x2 of them.

    Returns:
        ((rows, columns) of cells without whole patches of padding, the box that they cover and the box of the canvas,
        in pixels of the original).
    """
    height, width = canvas
    by_width, by_height = width / size[0], height / size[1]
    if by_width < by_height:
        resized = (width, int(size[1] * by_width))
    else:
        resized = (int(size[0] * by_height), height)
    columns, rows = (
        math.ceil((edge // patch - (edge - new) // patch) / 2)
        for edge, new in zip((width, height), resized, strict=True)
    )
    scale_x, scale_y = size[0] / resized[0], size[1] / resized[1]
    box = (0.0, 0.0, columns * 2 * patch * scale_x, rows * 2 * patch * scale_y)
    return (rows, columns), box, (0.0, 0.0, width * scale_x, height * scale_y)
