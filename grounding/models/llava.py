"""LLaVA: one square view of the picture, one token per patch of a CLIP-like vision tower."""

from __future__ import annotations

from torch import nn

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.geometry import viewed_box
from grounding.models.mistral3 import pixtral_grid
from grounding.models.picture import Picture
from grounding.types import IntArray


class Llava(VLM):
    """LLaVA-1.5 and every checkpoint of class `LlavaForConditionalGeneration` with a CLIP-like image processor.

    The processor either resizes the shortest edge and crops the centre, so that the model does not see the borders of a
    long picture, or resizes to an exact size; its settings say which. The vision tower's class token, where the model
    keeps it (`vision_feature_select_strategy="full"`), is the first image token and a separator. Pixtral is of this
    class too, with a tower of its own; see `grounding.models.mistral3`.
    """

    model_types = ("llava",)

    @property
    def projector(self) -> nn.Module | None:
        """The projector between tower and language model."""
        found: nn.Module = self.model.model.multi_modal_projector
        return found

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of patches; see `VLM.grids`."""
        if self.model.config.vision_config.model_type == "pixtral":
            patch = int(self.model.config.vision_config.patch_size)
            return (pixtral_grid(picture, positions, patch, self.name),)
        height, width = (int(side) for side in picture.entry("pixel_values").shape[-2:])
        patch = int(self.model.config.vision_config.patch_size)
        rows, columns = height // patch, width // patch
        extra = len(positions) - rows * columns
        keeps_class_token = self.model.config.vision_feature_select_strategy == "full"
        if extra != 0 and not (extra == 1 and keeps_class_token):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for {rows}x{columns} patches of {patch} px: expected "
                f"{rows * columns}; make patch_size, num_additional_image_tokens and vision_feature_select_strategy "
                "of its processor agree with its config"
            )
        box = viewed_box(picture.size, self.processor.image_processor, (height, width), (rows * patch, columns * patch))
        return (ImageGrid(positions[extra:], (rows, columns), box),)
