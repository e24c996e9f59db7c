"""Phi-4 multimodal: equal tiles of the picture joined to one grid, and behind them a small view of the whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from grounding.compat import install_output_capture
from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.picture import Picture
from grounding.text.parse import NounFinder
from grounding.types import IntArray


class Phi4Multimodal(VLM):
    """Phi-4 multimodal, as transformers' own class.

    The picture is resized to fit a canvas of square tiles, as many as it needs at its own size, and stands in its top
    left corner. The tiles' cells, 2x2 patches each, make one grid; rows and columns that lie wholly beyond the picture
    have no tokens. A token ends each row. One token separates this grid from the whole canvas squeezed into one tile,
    of whose cells those beyond the picture are separators.
    """

    model_types = ("phi4_multimodal",)
    auto_class = "AutoModelForCausalLM"

    def __init__(self, model: Any, processor: Any, name: str = "", finder: NounFinder | None = None) -> None:
        install_output_capture(model.model)  # its tower asks for hidden states at every pass
        super().__init__(model, processor, name, finder)
        if getattr(processor, "chat_template", None) is None:  # its class drops the saved template, the tokenizer not
            processor.chat_template = getattr(self.tokenizer, "chat_template", None)

    @property
    def image_token_id(self) -> int:
        """The id that the vision tower's settings name."""
        return int(self.model.config.vision_config.image_token_id)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """The tiles as one grid, then the whole picture's; see `VLM.grids`."""
        settings, (width, height) = self.processor.image_processor, picture.size
        tile, patch = int(settings.size["height"]), int(settings.patch_size)
        canvas_height, canvas_width = (int(edge) for edge in picture.entry("image_sizes"))
        by_width, by_height = canvas_width / width, canvas_height / height
        by_the_width = by_width < by_height
        fitted = (int(height * by_width), canvas_width) if by_the_width else (canvas_height, int(width * by_height))
        # Patches wholly in padding have no tokens; of a cell of 2x2 the first patch decides.
        unused = ((canvas_height - fitted[0]) // patch, (canvas_width - fitted[1]) // patch)
        rows, columns = (
            math.ceil((edge // patch - beyond) / 2)
            for edge, beyond in zip((canvas_height, canvas_width), unused, strict=True)
        )
        side = math.ceil(tile // patch / 2)
        count = rows * (columns + 1)
        if len(positions) != count + 1 + side * (side + 1):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for a picture of {width}x{height} px on a canvas of "
                f"{canvas_width}x{canvas_height} px: expected {rows}x{columns} cells of its tiles, {side}x{side} of "
                "the whole and a token behind each row; use the model's own processor"
            )
        to_x, to_y = width / fitted[1], height / fitted[0]
        tiles = positions[:count].reshape(rows, columns + 1)[:, :columns]
        box = (0.0, 0.0, columns * 2 * patch * to_x, rows * 2 * patch * to_y)
        cell = (canvas_height / side, canvas_width / side)  # of the whole picture, in pixels of the canvas
        seen = tuple(math.ceil(edge / one) for edge, one in zip(fitted, cell, strict=True))
        small = positions[count + 1 :].reshape(side, side + 1)[: seen[0], : seen[1]]
        whole = (0.0, 0.0, seen[1] * cell[1] * to_x, seen[0] * cell[0] * to_y)
        return (
            ImageGrid(tiles.ravel(), (rows, columns), box),
            ImageGrid(np.ascontiguousarray(small).ravel(), (seen[0], seen[1]), whole),
        )
