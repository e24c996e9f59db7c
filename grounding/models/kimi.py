"""Kimi K2.5: the whole picture near its own size, padded at the right and below to whole cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.picture import Picture
from grounding.types import IntArray


class KimiK25(VLM):
    """Kimi K2.5 and K2.6.

    A picture is never enlarged; a larger one than the budget of patches is reduced. The last row and column of cells
    may reach beyond it. A cell is 2x2 patches. The decoder's attention is multi-head latent attention, whose keys and
    values are written out per head before the weights are computed. The model is asked to answer without thinking.
    """

    model_types = ("kimi_k25",)
    template_options: ClassVar[Mapping[str, Any]] = {"thinking": False}

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of merged patches; see `VLM.grids`."""
        from transformers.models.kimi_k25.image_processing_kimi_k25 import navit_resize

        settings = self.processor.image_processor
        merge, patch = int(settings.merge_size), int(settings.patch_size)
        width, height = picture.size
        resized, padded = navit_resize(
            height, width, patch, merge, int(settings.max_patches), int(settings.size["max_height"])
        )
        rows, columns = (int(edge) // (merge * patch) for edge in padded)
        frames, tall, wide = (int(side) for side in picture.entry("image_grid_thw"))
        if (frames, tall, wide) != (1, rows * merge, columns * merge) or rows * columns != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for {frames}x{tall}x{wide} patches merged by "
                f"{merge}x{merge}: expected {rows}x{columns} cells; use the model's own processor"
            )
        box = (0.0, 0.0, padded[1] * width / resized[1], padded[0] * height / resized[0])
        return (ImageGrid(positions, (rows, columns), box),)
