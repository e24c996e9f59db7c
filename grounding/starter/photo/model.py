"""Build the photo starter: transformers' LLaVA classes around a frozen tower and a small Llama."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grounding.starter.model import CHAT_TEMPLATE, assemble, build_tokenizer, text_config
from grounding.starter.photo.words import ABOUT, DESCRIBE, ENUMERATE
from grounding.text.vocabulary import words_among

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from grounding.starter.photo.tower import PhotoTowerConfig

NOTICE = (
    "starter-photo: a small model that knows {words:,} words from the captions of {photos:,} photos, nearly all of "
    "people; a hub model named with --model is far better"
)
_MEAN, _DEVIATION = 127 / 255, 128 / 255  # EfficientNet-Lite's normalisation: pixels to [-1, 1]


@dataclass(frozen=True)
class Shape:
    """Size of the language model and of its image grid.

    Attributes:
        width: width of the hidden states.
        layers: decoder layers.
        heads: attention heads per layer.
        hidden: width of the feed-forward layers.
        pooling: cells of 16 px averaged along each side: 1 for 24 x 24 cells, 2 for 12 x 12.
        image_size: side of the square picture in pixels.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    hidden: int = 512
    pooling: int = 2
    image_size: int = 384


@dataclass(frozen=True)
class Spec:
    """Specification of a photo starter, without its seed.

    Attributes:
        words: vocabulary; see `grounding.starter.photo.words`.
        photos: number of training photos, for the model's notice.
        shape: size of the model.
        tower: the vision tower's config; None is the full tower at the shape's picture size.
    """

    words: tuple[str, ...]
    photos: int
    shape: Shape = field(default_factory=Shape)
    tower: PhotoTowerConfig | None = None


def build_processor(words: Sequence[str], shape: Shape) -> LlavaProcessor:
    """Build a LLaVA processor; pictures are resized to the tower's square input, without a crop."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    size = {"height": shape.image_size, "width": shape.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size=size, do_center_crop=False, image_mean=[_MEAN] * 3, image_std=[_DEVIATION] * 3
        ),
        tokenizer=build_tokenizer(words),
        patch_size=16 * shape.pooling,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=0,
    )


def build_model(spec: Spec, seed: int) -> LlavaForConditionalGeneration:
    """Build the model with random weights, the tower's included."""
    from grounding.starter.photo.tower import PhotoTowerConfig

    shape = spec.shape
    tower = spec.tower or PhotoTowerConfig(image_size=shape.image_size, pooling=shape.pooling)
    text = text_config(
        len(spec.words),
        width=shape.width,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        positions=2048,
        rope_theta=1e8,
    )
    notice = NOTICE.format(words=len(words_among(spec.words)), photos=spec.photos)
    return assemble(
        tower,
        text,
        cells=tower.cells**2,
        features="full",
        notice=notice,
        prompt=ABOUT,
        # Not the request for detail, which the training answers with all captions of a photo in a row: they repeat.
        describe=DESCRIBE,
        listing=(ENUMERATE, DESCRIBE),
        seed=seed,
    )
