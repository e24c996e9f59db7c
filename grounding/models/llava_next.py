"""LLaVA-NeXT and LLaVA-OneVision: a small view of the whole picture, and tiles of a larger one joined to one grid.

LLaVA-OneVision reads clips too.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.clips import ClipReader
from grounding.models.geometry import whole
from grounding.models.picture import Picture
from grounding.types import IntArray

Size = tuple[int, int]
"""(height, width)."""


class LlavaNext(VLM):
    """LLaVA-NeXT (1.6) with a CLIP-like tower.

    The first tokens are the whole picture, squeezed into the tower's square. Behind them stands a larger picture: it
    keeps its aspect, is padded to the best of the configured resolutions and read in tiles, whose patches the model
    puts together row by row. Rows and columns of patches that are padding are cut away, the same number on both sides,
    and a newline token ends each row.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The whole picture, then its tiles as one grid; see `VLM.grids`."""
        side = self._side
        size = self._size(picture)
        (rows, columns), box = tiled_view(size, self._resolution(size), side, self._pixels)
        rows, columns = self._fewer((rows, columns))
        expected = side * side + rows * (columns + 1)
        if len(positions) != expected:
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for a view of {side}x{side} and tiles of "
                f"{rows}x{columns} cells with {rows} newlines: expected {expected}; make patch_size, "
                "image_grid_pinpoints and vision_feature_select_strategy of its processor agree with its config"
            )
        tiles = positions[side * side :].reshape(rows, columns + 1)[:, :columns]
        return (
            ImageGrid(positions[: side * side], (side, side), whole(picture.size)),
            ImageGrid(np.ascontiguousarray(tiles).reshape(-1), (rows, columns), box),
        )

    @property
    def _pixels(self) -> int:
        """Side of the tower's square picture in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def _side(self) -> int:
        """Patches along each side of that square."""
        return self._pixels // int(self.model.config.vision_config.patch_size)

    def _size(self, picture: Picture) -> Size:
        height, width = (int(edge) for edge in picture.entry("image_sizes"))
        if (width, height) != picture.size:
            raise ModelError(
                f"the processor of {self.name} says that a picture of {picture.size[0]}x{picture.size[1]} px has "
                f"{width}x{height} px, so cells cannot be placed in it: give it pictures as they are"
            )
        return height, width

    def _resolution(self, size: Size) -> Size:
        from transformers.image_processing_utils import select_best_resolution

        height, width = select_best_resolution(size, self.model.config.image_grid_pinpoints)
        return int(height), int(width)

    def _fewer(self, cells: Size) -> Size:
        """(rows, columns) after the model has made a grid of too many cells smaller."""
        return cells


class OnevisionClips(ClipReader):
    """Clips of LLaVA-OneVision.

    Each frame is squeezed into the tower's square, and its patches are made half as many along each side by bilinear
    interpolation, so that a cell is read from the patches around its middle. One newline token ends the clip.
    """

    model_types = ()
    equal_lengths = True

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One square grid for each frame; see `VLM.grids`."""
        vision = self.model.config.vision_config
        side = math.ceil(int(vision.image_size) // int(vision.patch_size) / 2)
        frames = len(picture.entry("pixel_values_videos"))
        if len(positions) != frames * side * side + 1:
            raise ModelError(
                f"{self.name} has {len(positions)} tokens for a clip of {frames} frames of {side}x{side} cells and a "
                f"newline: expected {frames * side * side + 1}; make num_image_tokens of its processor agree with its "
                "config"
            )
        parts = np.split(positions[:-1], frames)
        return tuple(ImageGrid(own, (side, side), whole(picture.size), frame=at) for at, own in enumerate(parts))


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision.

    It differs from LLaVA-NeXT in two points. A grid of more cells than `vision_aspect_ratio` allows is made smaller by
    bilinear interpolation, so that each cell is read from the patches around its middle. And in a prompt of several
    pictures each is padded to a square and has one grid and one newline token.
    """

    model_types = ("llava_onevision",)
    nests_pictures = True
    clip_reader_class: ClassVar[type[ClipReader]] = OnevisionClips

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """As LLaVA-NeXT, or one square view for each of several pictures; see `VLM.grids`."""
        if picture.alone:
            return super().grids(picture, positions)
        side = self._side
        if len(positions) != side * side + 1:
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for one of several pictures: expected {side * side} "
                "cells and a newline; make num_image_tokens of its processor agree with its config"
            )
        width, height = picture.size
        longest = max(width, height)
        left, top = -float((longest - width) // 2), -float((longest - height) // 2)
        return (ImageGrid(positions[:-1], (side, side), (left, top, left + longest, top + longest)),)

    def _fewer(self, cells: Size) -> Size:
        most = int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(cells[0] * cells[1] / (most * self._side**2))
        return (int(cells[0] // ratio), int(cells[1] // ratio)) if ratio > 1.1 else cells


def tiled_view(size: Size, resolution: Size, side: int, pixels: int) -> tuple[Size, Box]:
    """The cells of a picture that was fitted into a resolution, padded around, cut into tiles and put together again.

    Args:
        size: (height, width) of the original in pixels.
        resolution: (height, width) of the padded picture in pixels, multiples of a tile.
        side: patches along each side of a tile.
        pixels: side of a tile in pixels.

    Returns:
        ((rows, columns) without the rows or columns of padding that the model cuts away, the box that they cover in
        pixels of the original; it reaches over the border where padding is left).
    """
    height, width = size
    by_width, by_height = resolution[1] / width, resolution[0] / height
    if by_width < by_height:
        resized = (min(math.ceil(height * by_width), resolution[0]), resolution[1])
    else:
        resized = (resolution[0], min(math.ceil(width * by_height), resolution[1]))
    tall, wide = (edge // pixels * side for edge in resolution)
    # As `unpad_image` counts: in patches, from the aspect of the original, the same number on both sides.
    cut_rows = cut_columns = 0
    if width / height > wide / tall:
        cut_rows = (tall - int(round(height * (wide / width), 7))) // 2
    else:
        cut_columns = (wide - int(round(width * (tall / height), 7))) // 2
    cells = (tall - 2 * cut_rows, wide - 2 * cut_columns)
    patch_y, patch_x = resolution[0] / tall, resolution[1] / wide
    paste_y, paste_x = (resolution[0] - resized[0]) // 2, (resolution[1] - resized[1]) // 2
    scale_y, scale_x = height / resized[0], width / resized[1]
    left, top = (cut_columns * patch_x - paste_x) * scale_x, (cut_rows * patch_y - paste_y) * scale_y
    return cells, (left, top, left + cells[1] * patch_x * scale_x, top + cells[0] * patch_y * scale_y)
