"""The concept part of SAM 3 in transformers (`Sam3Model`): every instance of a noun in a picture.

It takes a short noun phrase and answers with a mask for each instance. Position, comparison and number in a phrase are
not what it was trained to read, so it proposes and something else chooses; see `grounding.candidates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from PIL import Image

from grounding import hub
from grounding.equality import ByValue
from grounding.errors import SegmenterError
from grounding.geometry import Box
from grounding.segmenters.base import check_image, encoder_precision, explain_memory, no_image
from grounding.segmenters.hub import not_loadable
from grounding.types import BoolArray


@dataclass(frozen=True, eq=False)
class ConceptMask(ByValue):
    """One instance of a noun.

    Attributes:
        mask: bool [H, W] in the image's size.
        score: the model's confidence that it is one, times its confidence that the noun is in the picture, in [0, 1].
        box_xyxy: the model's box in pixels of the image.
    """

    mask: BoolArray = field(repr=False)
    score: float
    box_xyxy: Box


class Sam3Concepts:
    """The detector of "SAM 3: Segment Anything with Concepts" (Meta, 2025), for example `facebook/sam3`.

    The picture is encoded once for any number of nouns, a noun once for any number of pictures.

    Attributes:
        name: hub id or folder, as given.
        device: device of the model.
    """

    config_types: ClassVar[tuple[str, ...]] = ("sam3", "sam3_video")

    def __init__(
        self, model: Any, processor: Any, name: str, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """Wrap a model.

        Args:
            model: a `Sam3Model` with float32 weights; moved to `device` and set to evaluation mode.
            processor: its `Sam3Processor`.
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
        self._processor = processor
        self._dtype = dtype
        self._vision: Any = None
        self._original = (0, 0)  # (H, W)
        self._nouns: dict[str, tuple[Any, torch.Tensor]] = {}

    @torch.inference_mode()
    def set_image(self, image: Image.Image) -> None:
        """Encode an image; see `Segmenter.set_image`."""
        self._vision = None
        rgb = check_image(image)
        pixels = self._processor(images=rgb, return_tensors="pt")["pixel_values"].to(self.device)
        with explain_memory(self.name, self.device), encoder_precision(self.device, self._dtype):
            self._vision = self._model.get_vision_features(pixels)
        self._original = (rgb.height, rgb.width)

    @torch.inference_mode()
    def instances(self, noun: str, least_score: float = 0.3) -> tuple[ConceptMask, ...]:
        """Find every instance of a noun in the current image.

        Args:
            noun: a noun or a short noun phrase.
            least_score: instances of at most this score are left out; the default is that of the model's processor.

        Returns:
            The instances, highest score first; none where the model finds none.

        Raises:
            SegmenterError: no image was set, or the device ran out of memory.
        """
        if self._vision is None:
            raise no_image(self.name)
        text, attention_mask = self._text(noun)
        with explain_memory(self.name, self.device):
            output = self._model(vision_embeds=self._vision, text_embeds=text, attention_mask=attention_mask)
            found = self._processor.post_process_instance_segmentation(
                output, threshold=least_score, target_sizes=[self._original]
            )[0]
        masks, scores, boxes = (found[key].float().cpu().numpy() for key in ("masks", "scores", "boxes"))
        instances = [
            ConceptMask(mask > 0, float(score), (float(box[0]), float(box[1]), float(box[2]), float(box[3])))
            for mask, score, box in zip(masks, scores, boxes, strict=True)
            if mask.any()
        ]
        return tuple(sorted(instances, key=lambda one: -one.score))

    def _text(self, noun: str) -> tuple[Any, torch.Tensor]:
        if noun not in self._nouns:
            length = self._model.config.text_config.max_position_embeddings
            tokens = self._processor.tokenizer(
                noun, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).to(self.device)
            with explain_memory(self.name, self.device):
                features = self._model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
            self._nouns[noun] = (features, tokens["attention_mask"])
        return self._nouns[noun]

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype) -> Sam3Concepts:
        """Load weights and processor by hub id or folder.

        Raises:
            SegmenterError: the files cannot be found, fetched or read, or are of another model.
        """
        import transformers

        with hub.without_waiting(name):
            try:
                kind = transformers.AutoConfig.from_pretrained(name).model_type
                if kind not in cls.config_types:
                    raise SegmenterError(
                        f"{name!r} is a model of type {kind!r}, which finds no nouns: give a SAM 3 with its detector "
                        "(facebook/sam3)"
                    )
                processor = transformers.AutoProcessor.from_pretrained(name)
                model = transformers.Sam3Model.from_pretrained(name, dtype=torch.float32)
            except (OSError, ValueError) as error:
                raise not_loadable(name, error) from error
        return cls(model, processor, name, device, dtype)
