"""Aya Vision and Command A Vision: equal tiles of the picture, and behind them a small view of the whole."""

from __future__ import annotations

from collections.abc import Callable

from grounding.models.internvl import InternVL
from grounding.models.own_words import OwnWords


class AyaVision(InternVL):
    """Aya Vision.

    Tiles are chosen as InternVL chooses them. The processor writes `<|IMG_PATCH|>` for each cell and a marker before
    each view; markers are separators. A vision tower's patches are merged to cells 2x2.
    """

    model_types = ("aya_vision",)
    clip_reader_class = None
    family_words = OwnWords()

    @property
    def image_token_id(self) -> int:
        """The id of `<|IMG_PATCH|>`; the chat template writes `<image>`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.img_patch_token))

    @property
    def cells_per_view(self) -> int:
        """Cells of each tile and of the whole picture."""
        return (int(self.processor.img_size) // int(self.processor.patch_size)) ** 2


class Cohere2Vision(InternVL):
    """Command A Vision.

    A picture that is smaller than the largest canvas of tiles is put on the canvas that enlarges it least, and a larger
    one on the canvas that reduces it least; it is squeezed into it. A line break behind each view is a separator.
    """

    model_types = ("cohere2_vision",)
    clip_reader_class = None
    family_words = OwnWords()

    @property
    def cells_per_view(self) -> int:
        """Cells of each tile and of the whole picture."""
        return int(self.processor.patch_size) ** 2

    def tiling(self) -> Callable[..., tuple[int, int]]:
        """The function of transformers that chooses (columns, rows) of tiles."""
        from transformers.models.cohere2_vision.image_processing_cohere2_vision import get_optimal_tiled_canvas

        return get_optimal_tiled_canvas
