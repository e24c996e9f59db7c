"""SAM in transformers (`SamModel`): the longest side is scaled to the input size, the rest is padded."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from grounding.segmenters.hub import HubSegmenter


class SamSegmenter(HubSegmenter):
    """Kirillov et al., "Segment Anything", ICCV 2023; for example `facebook/sam-vit-base`."""

    model_class: ClassVar[str] = "SamModel"
    config_types: ClassVar[tuple[str, ...]] = ("sam",)

    def _content_size(self, inputs: Any) -> tuple[int, int]:
        height, width = (int(side) for side in inputs["reshaped_input_sizes"][0])
        return height, width

    def _upscale(self, logits: torch.Tensor) -> torch.Tensor:
        return self._processor.post_process_masks([logits], [self._original], [self._content])[0]
