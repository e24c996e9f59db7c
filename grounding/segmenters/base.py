"""What every segmenter is: set an image once, ask many times.

Coordinates follow `grounding.types`: a pixel's centre lies at +0.5. SAM counts a pixel's centre as its whole index and
adds the half itself, so `to_input_frame` takes it off after scaling; without that every prompt would land half an
input pixel to the lower right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from grounding.errors import ImageError, SegmenterError
from grounding.types import BoolArray, FloatArray, PointPrompts

LONGEST_TO_SHORTEST = 1000


@dataclass(frozen=True)
class MaskCandidates:
    """The masks a segmenter offers for one prompt.

    Attributes:
        masks: bool [M, H, W] in the original image's size.
        scores: [M] float32, the segmenter's own estimate of each mask's IoU, about [0, 1].
        low_res_logits: [M, h, w] float32 in the decoder's frame (256 x 256 for SAM and SAM 2, 288 x 288 for SAM 3),
            positive on the mask; one of them can be fed back as `mask_logits`.
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
    """Encodes an image once and turns any number of prompts on it into masks."""

    name: str

    def set_image(self, image: Image.Image) -> None:
        """Encode an image; it replaces the one before.

        Args:
            image: any Pillow image; it is read as RGB.

        Raises:
            ImageError: the image is too thin to be scaled to the model's input.
            SegmenterError: the device ran out of memory.
        """

    def segment(
        self, prompts: PointPrompts, *, mask_logits: FloatArray | None = None, multimask: bool = True
    ) -> MaskCandidates:
        """Masks for one object of the image that was set.

        Args:
            prompts: points and, where there is one, a box, in pixels of the original image.
            mask_logits: [h, w] low resolution logits of an earlier answer, as a further hint.
            multimask: three masks from small part to whole object, else the single mask that SAM's authors advise
                for prompts which leave no doubt, such as several points.

        Returns:
            The candidates.

        Raises:
            SegmenterError: no image was set, or the device ran out of memory.
        """


def check_image(image: Image.Image) -> Image.Image:
    """The image as RGB, refused where scaling it to a square input would leave no pixel of its short side."""
    width, height = image.size
    if min(width, height) < 1 or max(width, height) > LONGEST_TO_SHORTEST * min(width, height):
        raise ImageError(
            f"the image is {width} x {height} px; a segmenter needs sides no further apart than "
            f"1:{LONGEST_TO_SHORTEST}: crop the image"
        )
    return image.convert("RGB")


def no_image(name: str) -> SegmenterError:
    """The error of a segmenter that is asked before it has an image."""
    return SegmenterError(f"segmenter {name!r} was asked for a mask before it had an image: call set_image first")


def to_input_frame(
    prompts: PointPrompts, original: tuple[int, int], content: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Prompts in the coordinates SAM's prompt encoder wants.

    Args:
        prompts: in pixels of the original image.
        original: (H, W) of the original image.
        content: (h, w) that the image takes up inside the model's input, from its top left corner.
        device: where the tensors go.

    Returns:
        points [N, 2] float32 and labels [N] int32, or None twice where there is no point; box [4] float32 or None.
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


def mask_input(mask_logits: FloatArray | None, device: torch.device) -> torch.Tensor | None:
    """[h, w] logits as the [1, 1, h, w] tensor that prompt encoders take."""
    if mask_logits is None:
        return None
    if mask_logits.ndim != 2:
        raise ValueError(f"mask_logits is one [h, w] array out of low_res_logits, got shape {mask_logits.shape}")
    return torch.as_tensor(mask_logits, dtype=torch.float32, device=device)[None, None]


def candidates(masks: torch.Tensor, scores: torch.Tensor, low_res_logits: torch.Tensor) -> MaskCandidates:
    """[M, H, W] masks, [M] scores and [M, h, w] logits of a model, as NumPy arrays on the CPU."""
    return MaskCandidates(
        masks=masks.cpu().numpy(),
        scores=scores.float().cpu().numpy(),
        low_res_logits=low_res_logits.float().cpu().numpy(),
    )


def encoder_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Lower precision for the image encoder alone.

    Nearly all time goes into the encoder. Prompt encoder and mask decoder stay in float32: in bfloat16 a coordinate
    of 1000 would be rounded to a multiple of 4.
    """
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def memory_sentence(name: str, device: torch.device) -> Iterator[None]:
    """Turn the device's running out of memory into a `SegmenterError` with a sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SegmenterError(
            f"segmenter {name!r} ran out of memory on {device}: use a smaller one (mobile-sam), a smaller --dtype, or "
            "--device cpu"
        ) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise SegmenterError(
            f"segmenter {name!r} ran out of memory on {device}: use a smaller one (mobile-sam) or a smaller image"
        ) from error
