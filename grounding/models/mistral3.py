"""Mistral 3 and Pixtral: the whole picture near its own size, a token behind each row of cells."""

from __future__ import annotations

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import whole
from grounding.models.picture import Picture
from grounding.types import IntArray


class Mistral3(VLM):
    """Mistral Small 3.1 and later, and other checkpoints of class `Mistral3ForConditionalGeneration`.

    A picture longer than the limit is reduced; then both sides are stretched to whole cells of 2x2 patches, so that the
    grid covers the whole picture. `[IMG_BREAK]` behind each row but the last, and `[IMG_END]`, are separators.
    """

    model_types = ("mistral3",)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of merged patches; see `VLM.grids`."""
        merge = int(self.model.config.spatial_merge_size)
        return (pixtral_grid(picture, positions, merge * int(self.model.config.vision_config.patch_size), self.name),)


def pixtral_grid(picture: Picture, positions: IntArray, cell: int, name: str) -> ImageGrid:
    """The grid of a picture that a Pixtral processor stretched to whole cells of `cell` pixels.

    Args:
        picture: the picture.
        positions: (n,) positions of its image tokens.
        cell: side of a cell in pixels of the processed picture.
        name: the model, for the error message.

    Raises:
        ModelError: the processed picture has another number of cells.
    """
    rows, columns = (int(edge) // cell for edge in picture.entry("image_sizes"))
    if rows * columns != len(positions):
        raise ModelError(
            f"{name} has {len(positions)} image tokens for {rows}x{columns} cells of {cell} px: make patch_size and "
            "spatial_merge_size of its processor agree with its config"
        )
    return ImageGrid(positions, (rows, columns), whole(picture.size))
