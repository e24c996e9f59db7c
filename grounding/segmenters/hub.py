"""Base class of segmenters on transformers' SAM models: encode the image once, pass its embedding with every prompt.

`get_image_embeddings` returns what `forward(image_embeddings=...)` takes instead of `pixel_values`: one tensor for SAM,
a list from fine to coarse for SAM 2 and the SAM 3 tracker. Low resolution logits are passed as `input_masks`
[1, 1, h, w]. Each backend is one subclass in a file of its own: it names the model class and says how the image
processor resizes the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from grounding import hub
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


class HubSegmenter(ABC):
    """Segmenter on a transformers model of the SAM family; holds one encoded image.

    Attributes:
        name: hub id or folder, as given.
        device: device of the model.
        model_class: the class in `transformers`.
        config_types: the `model_type`s of checkpoints this backend can load.
    """

    model_class: ClassVar[str]
    config_types: ClassVar[tuple[str, ...]]

    def __init__(
        self, model: Any, image_processor: Any, name: str, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """Wrap a model.

        Args:
            model: instance of `model_class` with float32 weights; moved to `device` and set to evaluation mode.
            image_processor: its image processor.
            name: name for messages.
            device: device to run on.
            dtype: number format of the image encoder (autocast).

        Raises:
            SegmenterError: the device is out of memory.
        """
        self.name = name
        self.device = device
        with explain_memory(name, device):
            self._model = model.to(device).eval()
        self._processor = image_processor
        self._dtype = dtype
        self._embeddings: torch.Tensor | list[torch.Tensor] | None = None
        self._original = (0, 0)  # (H, W)
        self._content = (0, 0)  # (h, w) of the image inside the model's input

    @torch.inference_mode()
    def set_image(self, image: Image.Image) -> None:
        """Encode an image; see `Segmenter.set_image`."""
        self._embeddings = None
        rgb = check_image(image)
        inputs = self._processor(images=rgb, return_tensors="pt")
        self._original = (rgb.height, rgb.width)
        self._content = self._content_size(inputs)
        pixels = inputs["pixel_values"].to(self.device)
        with explain_memory(self.name, self.device), encoder_precision(self.device, self._dtype):
            embeddings = self._model.get_image_embeddings(pixels)
        self._embeddings = [e.float() for e in embeddings] if isinstance(embeddings, list) else embeddings.float()

    def predict(
        self, prompts: PointPrompts, *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> MaskCandidates:
        """Predict masks for one prompt; see `Segmenter.predict`."""
        logits, scores = self.decode([prompts], mask_input=mask_input, multimask_output=multimask_output)
        return to_candidates(self.enlarge(logits[0]), scores[0], self._feed_back(logits[0]))

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[PointPrompts], *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks for several prompts; see `BatchSegmenter.decode`."""
        if self._embeddings is None:
            raise no_image(self.name)
        points, labels, boxes = to_input_frame(prompts, self._original, self._content, self.device)
        with explain_memory(self.name, self.device):
            output = self._model(
                image_embeddings=self._embeddings,
                input_points=None if points is None else points[None],  # [image, object, point, xy]
                input_labels=None if labels is None else labels[None],
                input_boxes=None if boxes is None else boxes[None],  # [image, object, 4]
                input_masks=mask_tensor(mask_input, self.device),
                multimask_output=multimask_output,
            )
        return output.pred_masks[0].float(), output.iou_scores[0].float()

    @torch.inference_mode()
    def enlarge(self, logits: torch.Tensor) -> BoolArray:
        """Convert logits to masks; see `BatchSegmenter.enlarge`."""
        with explain_memory(self.name, self.device):
            return np.asarray(self._upscale(logits[:, None])[:, 0].cpu().numpy())

    @abstractmethod
    def _content_size(self, inputs: Any) -> tuple[int, int]:
        """Return (h, w) of the resized image inside the model's input, given the processor's output."""

    @abstractmethod
    def _upscale(self, logits: torch.Tensor) -> torch.Tensor:
        """Convert [object, M, h, w] logits to masks, bool [object, M, H, W] in the original size."""

    def _feed_back(self, logits: torch.Tensor) -> torch.Tensor:
        """Limit [M, h, w] logits to the range that the prompt encoder was trained on."""
        return logits

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype) -> HubSegmenter:
        """Load weights and image processor by hub id or folder.

        Args:
            name: hub id or folder.
            device: device to run on.
            dtype: number format of the image encoder.

        Returns:
            The segmenter, without an image.

        Raises:
            SegmenterError: the files cannot be found, fetched or read, or the device is out of memory.
        """
        import transformers

        try:
            processor = transformers.AutoImageProcessor.from_pretrained(name)
            model = getattr(transformers, cls.model_class).from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise not_loadable(name, error) from error
        return cls(model, processor, name, device, dtype)


def not_loadable(name: str, error: Exception) -> SegmenterError:
    """Create the error of a hub id or folder that transformers cannot load, with the first line of the cause."""
    from huggingface_hub import is_offline_mode

    # In the loader's block this also means that the hub did not answer.
    if is_offline_mode() and not Path(name).exists():
        return SegmenterError(
            f"segmenter {name!r} could not be loaded: {hub.unreachable(name)}: check the network, give the folder of "
            "a transformers checkpoint, or use mobile-sam, which needs no download"
        )
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return SegmenterError(
        f"segmenter {name!r} could not be loaded as a transformers checkpoint ({cause}); expected a folder with "
        "config.json, weights and preprocessor_config.json, or the id of one on a hub that this machine reaches: check "
        "the name and the connection, or use mobile-sam, which needs no download"
    )
