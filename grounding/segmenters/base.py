"""The segmenter protocol of this package: set an image once, predict masks for any number of prompts.

Coordinates follow `grounding.types`: a pixel's centre lies at +0.5. SAM takes a pixel's centre at its whole index and
adds 0.5 itself, so `to_input_frame` subtracts 0.5 after scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that also decodes several prompts at once; every segmenter of this package does.

    The two halves of `predict` stand apart, so that masks which a filter drops are never enlarged.

    Attributes:
        device: device of the model.
    """

    device: torch.device

    def decode(
        self, prompts: Sequence[PointPrompts], *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks for several objects of the current image, in the decoder's frame.

        Args:
            prompts: one or more, all with the same number of points, and all or none with a box.
            mask_input: see `Segmenter.predict`; the same for all.
            multimask_output: see `Segmenter.predict`.

        Returns:
            Logits [P, M, h, w] float32 and scores [P, M] float32 on the segmenter's device.

        Raises:
            SegmenterError: no image was set, or the device ran out of memory.
        """

    def enlarge(self, logits: torch.Tensor) -> BoolArray:
        """Convert logits [N, h, w] of `decode` to masks, bool [N, H, W] in the current image's size."""


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
    prompts: Sequence[PointPrompts], original: tuple[int, int], content: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Convert prompts to the coordinates of SAM's prompt encoder.

    Args:
        prompts: P prompts in pixels of the original image, all with N points, and all or none with a box.
        original: (H, W) of the original image.
        content: (h, w) of the resized image inside the model's input, from its top left corner.
        device: device of the tensors.

    Returns:
        points [P, N, 2] float32 and labels [P, N] int32, both None without points; boxes [P, 4] float32 or None.
    """
    forms = {(len(one.xy), one.box_xyxy is None) for one in prompts}
    if len(forms) != 1:
        raise ValueError(f"prompts of one batch have the same number of points and boxes, got {sorted(forms)}")
    scale = np.array([content[1] / original[1], content[0] / original[0]], dtype=np.float32)
    points = labels = boxes = None
    ((count, boxless),) = forms
    if count:
        xy = np.stack([one.xy for one in prompts]).astype(np.float32)
        points = torch.as_tensor(xy * scale - 0.5, dtype=torch.float32, device=device)
        labels = torch.as_tensor(np.stack([one.label for one in prompts]), dtype=torch.int32, device=device)
    if not boxless:
        corners = np.array([one.box_xyxy for one in prompts], dtype=np.float32) * np.tile(scale, 2) - 0.5
        boxes = torch.as_tensor(corners, dtype=torch.float32, device=device)
    return points, labels, boxes


def mask_tensor(mask_input: FloatArray | None, device: torch.device) -> torch.Tensor | None:
    """Convert [h, w] logits to the [1, 1, h, w] tensor of prompt encoders."""
    if mask_input is None:
        return None
    if mask_input.ndim != 2:
        raise ValueError(f"mask_input is one [h, w] array out of low_res_logits, got shape {mask_input.shape}")
    return torch.as_tensor(mask_input, dtype=torch.float32, device=device)[None, None]


def to_candidates(masks: BoolArray, scores: torch.Tensor, low_res_logits: torch.Tensor) -> MaskCandidates:
    """Join [M, H, W] masks with [M] scores and [M, h, w] logits of a model, as NumPy arrays on the CPU."""
    return MaskCandidates(
        masks=masks,
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
