"""MiniCPM-V 4.6 and 4.7: a small view of the whole picture, and behind it equal slices of a larger one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import tile_boxes, whole
from grounding.models.own_words import REGION, OwnWords
from grounding.models.picture import Picture
from grounding.types import IntArray


class MiniCPMV(VLM):
    """MiniCPM-V 4.6 and 4.7.

    The whole picture, stretched to whole cells, stands first. A picture beyond the resolution of one view is also
    stretched to a canvas of equal slices, which follow row by row. A cell is 4x4 patches, or 2x2 in the mode `4x`. The
    picture's number, the markers and the newlines between rows of slices are separators. The decoder is Qwen3.5's, most
    of whose layers are linear attention and have no weights; it is asked to answer without thinking.

    Notes:
        The question for an expression is that of the cookbook for 4.6 (github.com/OpenSQZ/MiniCPM-V-CookBook,
        grounding); for 4.7 no other is known.
    """

    model_types: ClassVar[tuple[str, ...]] = ("minicpmv4_6", "minicpmv4_7")
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}
    family_words = OwnWords(prompt=REGION)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The whole picture's grid, then one for each slice; see `VLM.grids`."""
        shapes, boxes = self._views(picture.size)
        counts = [rows * columns for rows, columns in shapes]
        if sum(counts) != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for a picture of {picture.size[0]}x{picture.size[1]} "
                f"px, but its image processor's settings say {len(shapes)} views of {counts[0]} and "
                f"{sum(counts[1:])} cells: use the model's own processor"
            )
        parts = np.split(positions, np.cumsum(counts)[:-1])
        return tuple(ImageGrid(*view) for view in zip(parts, shapes, boxes, strict=True))

    def _views(self, size: tuple[int, int]) -> tuple[list[tuple[int, int]], list[Box]]:
        """Per view (rows, columns) of cells, and what it covers in pixels of the original."""
        settings = self.processor.image_processor
        options = (settings.scale_resolution, settings.patch_size, settings.downsample_mode)
        cell = int(settings.patch_size) * (2 if settings.downsample_mode == "4x" else 4)
        edges = (size[1], size[0])
        tiles = None
        if settings.slice_mode:
            tiles = settings.get_sliced_grid(edges, settings.max_slice_nums, settings.scale_resolution)
        height, width = settings.find_best_resize(edges, *options, allow_upscale=tiles is None)
        shapes, boxes = [(height // cell, width // cell)], [whole(size)]
        if tiles is not None:
            height, width = settings.get_refine_size(edges, tiles, *options, allow_upscale=True)
            shapes += [(height // tiles[0] // cell, width // tiles[1] // cell)] * math.prod(tiles)
            boxes += tile_boxes(size, *tiles)
        return shapes, boxes
