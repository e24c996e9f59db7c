"""Gemma 4: the whole picture in its own aspect, one token per 3x3 patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import whole
from grounding.models.picture import Picture
from grounding.types import IntArray


class Gemma4(VLM):
    """Gemma 4 with a vision tower.

    The picture is stretched to whole cells as near to its aspect as the budget of tokens allows, so that the grid
    covers the whole of it. Local layers see a window of keys and have narrower heads; the last layers of small
    checkpoints use the keys of earlier ones. In large checkpoints the image tokens of a picture see each other in both
    directions in local layers. The model is asked to answer without thinking.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    nests_pictures = True
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of pooled patches; see `VLM.grids`."""
        pool = self._pool
        places = picture.entry("image_position_ids")  # [patches, 2] (x, y), -1 for padding
        columns, rows = ((int(last) + 1) // pool for last in places.amax(dim=0))
        if rows * columns != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for {rows}x{columns} cells of {pool}x{pool} patches: "
                "make pooling_kernel_size of its processor agree with its config"
            )
        return (ImageGrid(positions, (rows, columns), whole(picture.size)),)

    @property
    def _pool(self) -> int:
        """Patches along each side of a cell."""
        return int(self.model.config.vision_config.pooling_kernel_size)


class Gemma4Unified(Gemma4):
    """Gemma 4 without a vision tower: the processor merges patches to cells, and the decoder reads their pixels."""

    model_types = ("gemma4_unified",)

    @property
    def _pool(self) -> int:
        return 1
