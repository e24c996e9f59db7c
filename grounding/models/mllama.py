"""Mllama (Llama 3.2 Vision): the picture in tiles, read by the decoder's layers of cross-attention."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import nn

from grounding.errors import ModelError
from grounding.layout import ImageGrid, Separator
from grounding.models.cross import CrossVLM
from grounding.models.picture import Picture
from grounding.record_spec import Attention


class Mllama(CrossVLM):
    """Llama 3.2 Vision.

    The picture is resized to fit a canvas of up to four square tiles and stands in its top left corner. The keys of the
    decoder's layers of cross-attention are, for each picture of the prompt and for each of its four tiles, a class
    token and the tile's patches row by row. The tiles of a picture make one grid; class tokens and the patches beyond
    the picture's border are separators; tiles that a picture does not use are masked in the model and no keys here.

    Maps are of these layers alone, whose weights are over keys of pictures only, so that a row sums to 1. The prompt's
    image token is a token like any other.

    Notes:
        In transformers 5.24 tokens before the first picture attend evenly to all keys, also to those of pictures that
        only other prompts of the batch have. Rows of a prompt therefore depend a little on the batch where its prompts
        have different numbers of pictures.
    """

    model_types = ("mllama",)
    nests_pictures = True
    map_attention: ClassVar[Attention] = "cross"
    repeated_inputs: ClassVar[tuple[str, ...]] = ("cross_attention_mask",)

    @property
    def projector(self) -> nn.Module:
        """The projector between tower and language model."""
        found: nn.Module = self.model.model.multi_modal_projector
        return found

    def cross_spans(self, picture: Picture) -> tuple[ImageGrid | Separator, ...]:
        """One grid of all tiles, and separators; see `CrossVLM.cross_spans`."""
        from transformers.models.mllama.image_processing_mllama import (
            get_image_size_fit_to_canvas,
            get_optimal_tiled_canvas,
        )

        settings, vision = self.processor.image_processor, self.model.config.vision_config
        side, most, patch = int(settings.size["height"]), int(settings.max_image_tiles), int(vision.patch_size)
        width, height = picture.size
        canvas = [int(edge) for edge in get_optimal_tiled_canvas(height, width, most, side)]
        resized = [int(edge) for edge in get_image_size_fit_to_canvas(height, width, *canvas, side)]
        tiles = (canvas[0] // side, canvas[1] // side)
        used = int(picture.inputs["aspect_ratio_mask"][picture.element, picture.number].sum())
        if used != tiles[0] * tiles[1] or side != vision.image_size or most != vision.max_num_tiles:
            raise ModelError(
                f"{self.name} reads a picture of {width}x{height} px in {used} of {vision.max_num_tiles} tiles of "
                f"{vision.image_size} px, but its image processor's settings say {tiles[0]}x{tiles[1]} of at most "
                f"{most} tiles of {side} px: use the model's own processor"
            )
        cells = side // patch  # per side of a tile
        first = picture.number * most * (cells * cells + 1)
        keys = first + np.arange(used * (cells * cells + 1)).reshape(used, -1)  # [tiles, class token and patches]
        patches = keys[:, 1:].reshape(*tiles, cells, cells).swapaxes(1, 2).reshape(tiles[0] * cells, tiles[1] * cells)
        rows, columns = (math.ceil(edge / patch) for edge in resized)
        box = (0.0, 0.0, columns * patch * width / resized[1], rows * patch * height / resized[0])
        inside = patches[:rows, :columns]
        return ImageGrid(inside.ravel(), inside.shape, box), Separator(np.setdiff1d(keys, inside))
