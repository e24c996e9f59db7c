"""Segment Anything as its authors published it: package `segment-anything`, checkpoints by path.

Kirillov et al., "Segment Anything", ICCV 2023 (arXiv 2304.02643). The package's own `SamPredictor` holds an image and
answers in NumPy; this class does the same steps in inference mode, in our coordinates and with our errors, for any
image encoder that fits (MobileSAM's too, see mobile_sam.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from grounding.errors import SegmenterError
from grounding.segmenters.base import (
    MaskCandidates,
    candidates,
    check_image,
    encoder_precision,
    mask_input,
    memory_sentence,
    no_image,
    to_input_frame,
)
from grounding.types import FloatArray, PointPrompts

VARIANTS = ("vit_b", "vit_l", "vit_h")


class SegmentAnything:
    """A `segment_anything` model that holds one encoded image.

    Attributes:
        name: what the user called it.
        device: where it runs.
    """

    def __init__(
        self,
        model: Sam,
        name: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
    ) -> None:
        """Take over a model.

        Args:
            model: weights in float32; it is moved to `device` and set to evaluation.
            name: for messages.
            device: where to run.
            dtype: number format of the image encoder (autocast).
            channels_last: feed the encoder channels-last memory, faster for convolutional encoders.
        """
        self.name = name
        self.device = device
        with memory_sentence(name, device):
            self._model = model.to(device).eval()
        self._dtype = dtype
        self._memory = torch.channels_last if channels_last else torch.contiguous_format
        self._resize = ResizeLongestSide(model.image_encoder.img_size)
        self._embedding: torch.Tensor | None = None  # [1, C, h, w]
        self._original = (0, 0)  # (H, W)
        self._content = (0, 0)  # (h, w) of the image inside the padded square input

    @torch.inference_mode()
    def set_image(self, image: Image.Image) -> None:
        """Encode an image; see `Segmenter.set_image`."""
        self._embedding = None
        rgb = np.asarray(check_image(image))
        resized = torch.as_tensor(self._resize.apply_image(rgb), device=self.device).permute(2, 0, 1)[None]  # [1,3,h,w]
        self._original, self._content = rgb.shape[:2], (resized.shape[2], resized.shape[3])
        pixels = self._model.preprocess(resized.float()).contiguous(memory_format=self._memory)
        with memory_sentence(self.name, self.device), encoder_precision(self.device, self._dtype):
            self._embedding = self._model.image_encoder(pixels).float()

    @torch.inference_mode()
    def segment(
        self, prompts: PointPrompts, *, mask_logits: FloatArray | None = None, multimask: bool = True
    ) -> MaskCandidates:
        """Masks for one prompt; see `Segmenter.segment`."""
        if self._embedding is None:
            raise no_image(self.name)
        points, labels, box = to_input_frame(prompts, self._original, self._content, self.device)
        with memory_sentence(self.name, self.device):
            sparse, dense = self._model.prompt_encoder(
                points=None if points is None or labels is None else (points[None], labels[None]),
                boxes=None if box is None else box[None],
                masks=mask_input(mask_logits, self.device),
            )
            logits, scores = self._model.mask_decoder(  # [1, M, 256, 256], [1, M]
                image_embeddings=self._embedding,
                image_pe=self._model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
            )
            masks = self._model.postprocess_masks(logits, self._content, self._original)
            return candidates(masks[0] > self._model.mask_threshold, scores[0], logits[0])


def read_checkpoint(path: Path, name: str) -> Mapping[str, torch.Tensor]:
    """A state dict from disk, read without running anything that the file may hold.

    Args:
        path: the file.
        name: the segmenter's name, for messages.

    Returns:
        Tensors by parameter name.

    Raises:
        SegmenterError: there is no such file, or it holds no plain state dict.
    """
    if not path.is_file():
        raise SegmenterError(f"segmenter {name!r}: there is no file {path}; give the path of a SAM checkpoint (.pth)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise SegmenterError(
            f"segmenter {name!r}: {path} is not a checkpoint that torch can read safely; expected the .pth file that "
            "SAM's authors publish, perhaps the download was cut short"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise SegmenterError(
            f"segmenter {name!r}: {path} holds no state dict (tensors by name); expected the .pth file that SAM's "
            "authors publish"
        )
    return state


def fit_weights(model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, name: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        SegmenterError: the weights belong to another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise SegmenterError(
            f"segmenter {name!r}: the weights in {path} do not fit this model; say which one they are of, for example "
            f"sam:vit_l:{path} (known: {', '.join(VARIANTS)}, vit_t for MobileSAM)"
        ) from error


def load_segment_anything(
    variant: str, path: Path, name: str, device: torch.device, dtype: torch.dtype
) -> SegmentAnything:
    """A `segment-anything` checkpoint by path.

    Args:
        variant: `vit_b`, `vit_l` or `vit_h`.
        path: the checkpoint.
        name: for messages.
        device: where to run.
        dtype: number format of the image encoder.

    Returns:
        The segmenter.

    Raises:
        SegmenterError: no such file, not a checkpoint, weights of another model, or out of memory.
    """
    state = read_checkpoint(path, name)
    model = sam_model_registry[variant]()
    fit_weights(model, state, path, name)
    return SegmentAnything(model, name, device, dtype)
