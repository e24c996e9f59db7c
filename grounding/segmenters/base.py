"""The segmenter protocol of this package: set an image once, predict masks for any number of prompts.

Coordinates follow `grounding.types`: a pixel's centre lies at +0.5. SAM takes a pixel's centre at its whole index and
adds 0.5 itself, so `to_input_frame` subtracts 0.5 after scaling.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from grounding.equality import ByValue
from grounding.errors import ImageError, SegmenterError
from grounding.images import as_rgb
from grounding.memory import explain_out_of_memory
from grounding.types import BoolArray, FloatArray, PointPrompts

LONGEST_TO_SHORTEST = 1000


@dataclass(frozen=True, eq=False)
class MaskCandidates(ByValue):
    """Masks of one prompt, as a segmenter predicts them.

    Attributes:
        masks: bool [M, H, W] in the original image's size.
        scores: [M] float32, the segmenter's own estimate of each mask's IoU, about [0, 1].
        low_res_logits: [M, h, w] float32 in the decoder's frame (256 x 256 for SAM and SAM 2, 288 x 288 for SAM 3),
            positive on the mask; one of them can be fed back as `mask_input`.
    """

    masks: BoolArray
    scores: FloatArray
    low_res_logits: FloatArray

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.masks.ndim != 3 or self.masks.dtype != np.bool_ or count == 0:
            raise ValueError(
                f"mask candidates are at least one bool [H, W] mask, got {self.masks.dtype} {self.masks.shape}"
            )
        if self.scores.shape != (count,) or len(self.masks) != count or len(self.low_res_logits) != count:
            raise ValueError(
                f"{len(self.masks)} masks, scores of shape {self.scores.shape} and {len(self.low_res_logits)} low "
                "resolution logits do not belong together"
            )
        if self.low_res_logits.ndim != 3:
            raise ValueError(f"low resolution logits are [M, h, w], got shape {self.low_res_logits.shape}")


class Segmenter(Protocol):
    """Encode an image once, then predict masks for any number of prompts on it.

    Attributes:
        name: the segmenter's name, for messages.
    """

    name: str

    def set_image(self, image: Image.Image) -> None:
        """Encode an image, replacing the previous one.

        Args:
            image: any Pillow image; converted to RGB.

        Raises:
            ImageError: the image is too thin to be scaled to the model's input.
            SegmenterError: the device ran out of memory.
        """

    def predict(
        self, prompts: PointPrompts, *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> MaskCandidates:
        """Predict masks for one object of the current image.

        Args:
            prompts: points and optionally a box, in pixels of the original image.
            mask_input: [h, w] low resolution logits of an earlier prediction, as a further prompt.
            multimask_output: predict three masks, from small part to whole object; False predicts one, which SAM's
                authors advise for unambiguous prompts such as several points.

        Returns:
            The candidates.

        Raises:
            SegmenterError: no image was set, or the device ran out of memory.
        """


def check_image(image: Image.Image) -> Image.Image:
    """Convert an image to RGB.

    Raises:
        ImageError: the image is too thin: scaled to a square input, its short side would have no pixel.
    """
    width, height = image.size
    if min(width, height) < 1 or max(width, height) > LONGEST_TO_SHORTEST * min(width, height):
        raise ImageError(
            f"the image is {width} x {height} px; a segmenter needs sides no further apart than "
            f"1:{LONGEST_TO_SHORTEST}: crop the image"
        )
    return image if image.mode == "RGB" else as_rgb(image)


def no_image(name: str) -> SegmenterError:
    """Create the error of `predict` without `set_image`."""
    return SegmenterError(f"segmenter {name!r} was asked for a mask before it had an image: call set_image first")


def to_input_frame(
    prompts: PointPrompts, original: tuple[int, int], content: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Convert prompts to the coordinates of SAM's prompt encoder.

    Args:
        prompts: in pixels of the original image.
        original: (H, W) of the original image.
        content: (h, w) of the resized image inside the model's input, from its top left corner.
        device: device of the tensors.

    Returns:
        points [N, 2] float32 and labels [N] int32, both None without points; box [4] float32 or None.
    """
    scale = np.array([content[1] / original[1], content[0] / original[0]], dtype=np.float32)
    points = labels = box = None
    if len(prompts.xy):
        points = torch.as_tensor(prompts.xy.astype(np.float32) * scale - 0.5, dtype=torch.float32, device=device)
        labels = torch.as_tensor(prompts.label, dtype=torch.int32, device=device)
    if prompts.box_xyxy is not None:
        corners = np.array(prompts.box_xyxy, dtype=np.float32) * np.tile(scale, 2) - 0.5
        box = torch.as_tensor(corners, dtype=torch.float32, device=device)
    return points, labels, box


def mask_tensor(mask_input: FloatArray | None, device: torch.device) -> torch.Tensor | None:
    """Convert [h, w] logits to the [1, 1, h, w] tensor of prompt encoders."""
    if mask_input is None:
        return None
    if mask_input.ndim != 2:
        raise ValueError(f"mask_input is one [h, w] array out of low_res_logits, got shape {mask_input.shape}")
    return torch.as_tensor(mask_input, dtype=torch.float32, device=device)[None, None]


def to_candidates(masks: torch.Tensor, scores: torch.Tensor, low_res_logits: torch.Tensor) -> MaskCandidates:
    """Convert [M, H, W] masks, [M] scores and [M, h, w] logits of a model to NumPy arrays on the CPU."""
    return MaskCandidates(
        masks=masks.cpu().numpy(),
        scores=scores.float().cpu().numpy(),
        low_res_logits=low_res_logits.float().cpu().numpy(),
    )


def encoder_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Run the image encoder alone in lower precision (autocast).

    The encoder takes nearly all of the time. Prompt encoder and mask decoder stay in float32: bfloat16 rounds a
    coordinate near 1000 to a multiple of 4.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def explain_memory(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Re-raise out-of-memory errors of a segmenter as `SegmenterError`; see `grounding.memory`."""
    remedy = "use a smaller segmenter (mobile-sam), a smaller image, a smaller --dtype, or --device cpu"
    return explain_out_of_memory(f"running segmenter {name!r} on {device}", remedy, SegmenterError)
