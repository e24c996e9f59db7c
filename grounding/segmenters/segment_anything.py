"""Segment Anything by the authors' package `segment-anything`, with checkpoints by path.

Kirillov et al., "Segment Anything", ICCV 2023 (arXiv 2304.02643). The class does the steps of the package's
`SamPredictor` in inference mode, with the coordinates and errors of this package, for any image encoder that fits
(MobileSAM's too, see mobile_sam.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
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
    check_image,
    encoder_precision,
    explain_memory,
    mask_tensor,
    no_image,
    to_candidates,
    to_input_frame,
)
from grounding.types import BoolArray, FloatArray, PointPrompts


class SegmentAnything:
    """Segmenter on a `segment_anything` model; holds one encoded image.

    Attributes:
        name: the segmenter's name, as given.
        device: device of the model.
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
        """Wrap a model.

        Args:
            model: model with float32 weights; moved to `device` and set to evaluation mode.
            name: name for messages.
            device: device to run on.
            dtype: number format of the image encoder (autocast).
            channels_last: use channels-last memory in the encoder, faster for convolutional encoders.

        Raises:
            SegmenterError: the device is out of memory.
        """
        self.name = name
        self.device = device
        with explain_memory(name, device):
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
        with explain_memory(self.name, self.device), encoder_precision(self.device, self._dtype):
            # Decoders copy it for every prompt, which takes a tenth of their time longer from channels-last memory.
            self._embedding = self._model.image_encoder(pixels).float().contiguous()

    def predict(
        self, prompts: PointPrompts, *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> MaskCandidates:
        """Predict masks for one prompt; see `Segmenter.predict`."""
        logits, scores = self.decode([prompts], mask_input=mask_input, multimask_output=multimask_output)
        return to_candidates(self.enlarge(logits[0]), scores[0], logits[0])

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[PointPrompts], *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks for several prompts; see `BatchSegmenter.decode`."""
        if self._embedding is None:
            raise no_image(self.name)
        points, labels, boxes = to_input_frame(prompts, self._original, self._content, self.device)
        mask = mask_tensor(mask_input, self.device)
        with explain_memory(self.name, self.device):
            sparse, dense = self._model.prompt_encoder(
                points=None if points is None or labels is None else (points, labels), boxes=boxes, masks=mask
            )
            logits, scores = self._model.mask_decoder(  # [P, M, 256, 256], [P, M]
                image_embeddings=self._embedding,
                image_pe=self._model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask_output,
            )
        return logits.float(), scores.float()

    @torch.inference_mode()
    def enlarge(self, logits: torch.Tensor) -> BoolArray:
        """Convert logits to masks; see `BatchSegmenter.enlarge`."""
        with explain_memory(self.name, self.device):
            masks = self._model.postprocess_masks(logits[None], self._content, self._original)[0]
            return np.asarray((masks > self._model.mask_threshold).cpu().numpy())


def read_checkpoint(path: Path, name: str) -> Mapping[str, torch.Tensor]:
    """Read a state dict from disk without executing code that the file may contain.

    Args:
        path: checkpoint file.
        name: the segmenter's name, for messages.

    Returns:
        Tensors by parameter name.

    Raises:
        SegmenterError: there is no such file, or it is not a plain state dict.
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
    """Load a state dict, with no missing and no unexpected keys.

    Raises:
        SegmenterError: the weights belong to another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise SegmenterError(
            f"segmenter {name!r}: the weights in {path} do not fit this model; name the variant, for example "
            f"sam:vit_l:{path} (known: vit_b, vit_l, vit_h, and vit_t for MobileSAM)"
        ) from error


def load_segment_anything(
    variant: str, path: Path, name: str, device: torch.device, dtype: torch.dtype
) -> SegmentAnything:
    """Load a `segment-anything` checkpoint by path.

    Args:
        variant: `vit_b`, `vit_l` or `vit_h`.
        path: checkpoint file.
        name: name for messages.
        device: device to run on.
        dtype: number format of the image encoder.

    Returns:
        The segmenter, without an image.

    Raises:
        SegmenterError: no such file, not a checkpoint, weights of another model, or out of memory.
    """
    state = read_checkpoint(path, name)
    model = sam_model_registry[variant]()
    fit_weights(model, state, path, name)
    return SegmentAnything(model, name, device, dtype)
