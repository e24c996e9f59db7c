"""DeepSeek-VL: the whole picture in its own aspect, padded to one square."""

from __future__ import annotations

from typing import ClassVar

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import square_grids
from grounding.models.picture import Picture
from grounding.types import IntArray


class DeepseekVL(VLM):
    """DeepSeek-VL, 1.3B and, of type `deepseek_vl_hybrid`, 7B.

    The longer side is resized to the side of the square and the shorter one is padded on both sides, so that cells of
    the outer rows or columns lie beyond the picture. The hybrid reads the square twice, in a second tower at a higher
    resolution whose convolutions mix neighbouring cells, and joins both to one token per cell.
    """

    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl", "deepseek_vl_hybrid")

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One square grid of patches; see `VLM.grids`."""
        settings = self.processor.image_processor
        # The hybrid pads at its higher resolution and reduces the padded square.
        side = int((getattr(settings, "high_res_size", None) or settings.size)["height"])
        if not settings.do_pad or not settings.do_resize:
            raise ModelError(
                f"the image processor of {self.name} does not resize and pad (do_resize {settings.do_resize}, do_pad "
                f"{settings.do_pad}), so cells cannot be placed in the picture: use the model's own processor"
            )
        return square_grids(positions, [padded_box(picture.size, side, int(settings.min_size))], self.name)


def padded_box(size: tuple[int, int], side: int, least: int) -> Box:
    """What a square covers into which a picture was fitted, padded on both sides, in pixels of the original.

    Args:
        size: (width, height) of the original.
        side: side of the square in pixels.
        least: the shorter side of the resized picture is at least this long.
    """
    resized = [max(round(edge * side / max(size)), least) for edge in size]
    scales = [edge / new for edge, new in zip(size, resized, strict=True)]
    left, top = (-((side - new) // 2) * scale for new, scale in zip(resized, scales, strict=True))
    return (left, top, left + side * scales[0], top + side * scales[1])
