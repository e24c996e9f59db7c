"""SAM 2 in transformers (`Sam2Model`): the image is stretched to a square, without padding."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from grounding.segmenters.hub import HubSegmenter

LOGIT_LIMIT = 32.0


class Sam2Segmenter(HubSegmenter):
    """Ravi et al., "SAM 2: Segment Anything in Images and Videos" (arXiv 2408.00714), its image part.

    For example `facebook/sam2.1-hiera-tiny`. As in the authors' image predictor, low resolution logits are clamped to
    [-32, 32].
    """

    model_class: ClassVar[str] = "Sam2Model"
    config_types: ClassVar[tuple[str, ...]] = ("sam2", "sam2_video")

    def _content_size(self, inputs: Any) -> tuple[int, int]:
        height, width = inputs["pixel_values"].shape[-2:]
        return height, width

    def _upscale(self, logits: torch.Tensor) -> torch.Tensor:
        return self._processor.post_process_masks([logits], [self._original])[0]

    def _feed_back(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
