"""InternVL: equal tiles of the picture, and behind them a small view of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.clips import ClipReader, SquareFrames
from grounding.models.geometry import square_grids, tile_boxes, whole
from grounding.models.own_words import REGION, OwnWords
from grounding.models.picture import Picture
from grounding.types import IntArray


class InternVLClips(SquareFrames):
    """Clips of InternVL: one view for each frame, behind its number."""

    model_types = ()

    @property
    def cells_per_frame(self) -> int:
        """Cells of each frame."""
        return int(self.processor.image_seq_length)


class InternVL(VLM):
    """InternVL 3 and 3.5, with any decoder.

    The picture is squeezed into a canvas of equal square tiles whose aspect is nearest to its own. The tiles come
    first, row by row, then a thumbnail of the whole picture where there are several. `<img>` and `</img>` around them
    are separators. Pixel shuffle merges 2x2 patches to a cell.
    """

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    clip_reader_class: ClassVar[type[ClipReader] | None] = InternVLClips
    family_words: ClassVar[OwnWords] = OwnWords(prompt=REGION)

    @property
    def cells_per_view(self) -> int:
        """Cells of each tile and of the thumbnail."""
        return int(self.processor.image_seq_length)

    def tiling(self) -> Callable[..., tuple[int, int]]:
        """The function of transformers that chooses (columns, rows) of tiles."""
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        return get_optimal_tiled_canvas

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid for each tile, then the thumbnail's; see `VLM.grids`."""
        views = len(positions) // self.cells_per_view
        return square_grids(positions, self._boxes(picture.size, views), self.name)

    def _boxes(self, size: tuple[int, int], views: int) -> list[Box]:
        if views == 1:
            return [whole(size)]
        settings = self.processor.image_processor
        tile = settings.size
        limits = (int(settings.min_patches), int(settings.max_patches))
        columns, rows = self.tiling()((size[1], size[0]), (int(tile["height"]), int(tile["width"])), *limits)
        if views != rows * columns + 1:
            raise ModelError(
                f"{self.name} reads a picture of {size[0]}x{size[1]} px in {views} views, but its image processor's "
                f"settings say {rows}x{columns} tiles and a thumbnail: its way of tiling is not known, so cells cannot "
                "be placed in the picture; use the model's own processor"
            )
        return [*tile_boxes(size, rows, columns), whole(size)]
