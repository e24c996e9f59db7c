"""The photo starter's architecture: the real LLaVA classes around a frozen tower and a small Llama."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from grounding.starter.model import CHAT_TEMPLATE, SPECIAL_TOKENS, attend_to_likeness, build_tokenizer
from grounding.starter.photo.words import ABOUT

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from grounding.starter.photo.tower import PhotoTowerConfig

WEIGHTS = Path(__file__).parent / "weights"
NOTICE = (
    "starter-photo: a small model that knows {words:,} words from the captions of {photos:,} photos, nearly all of "
    "people; a hub model named with --model is far better"
)
_MEAN, _DEVIATION = 127 / 255, 128 / 255  # EfficientNet-Lite's own: pixels to [-1, 1]


@dataclass(frozen=True)
class Shape:
    """Size of the language model and of the grid it reads.

    Attributes:
        width: of the tokens.
        layers: decoder layers.
        heads: attention heads of each.
        hidden: width of each layer's perceptron.
        pooling: cells of 16 px joined along each side: 1 for 24 x 24 cells, 2 for 12 x 12.
        image_size: side of the square picture in pixels.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    hidden: int = 512
    pooling: int = 1
    image_size: int = 384


@dataclass(frozen=True)
class Spec:
    """Everything a photo starter is built from, besides its seed.

    Attributes:
        words: its vocabulary; see `grounding.starter.photo.words`.
        photos: how many photos it is taught by, for its notice.
        shape: its size.
        tower: the vision tower's config; the full one at the shape's picture size where None.
    """

    words: tuple[str, ...]
    photos: int
    shape: Shape = field(default_factory=Shape)
    tower: PhotoTowerConfig | None = None


def build_processor(words: Sequence[str], shape: Shape) -> LlavaProcessor:
    """LLaVA's own processor; pictures are resized to the square the tower reads, without a crop."""
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
    """The model with fresh random weights, the tower's included."""
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from grounding.starter.photo.tower import PhotoTowerConfig

    shape = spec.shape
    tower = spec.tower or PhotoTowerConfig(image_size=shape.image_size, pooling=shape.pooling)
    text = LlamaConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(spec.words),
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        # A word must find its cells by what they show, up to 600 positions away: most of each head turns slowly.
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<s>"),
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=tower.cells**2,
        tie_word_embeddings=True,
        grounding_notice=NOTICE.format(words=len(spec.words), photos=spec.photos),
        grounding_prompt=ABOUT,
    )
    torch.manual_seed(seed)
    config._attn_implementation = "sdpa"
    model = LlavaForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        attend_to_likeness(layer.self_attn)
    return model
