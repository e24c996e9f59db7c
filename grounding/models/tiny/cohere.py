"""Tiny random Aya Vision and Command A Vision models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

TILE = 56  # px, 4x4 patches of 14 px, 2x2 cells
SPECIAL = ("<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
SPEAKERS = ("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>")
VISUAL = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}IMAGE"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)


def tiny_aya_vision(*, seed: int = 0) -> TinyModel:
    """A random `AyaVisionForConditionalGeneration` with its processor: at most four tiles of 2x2 cells."""
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        GotOcr2ImageProcessor,
    )

    tokenizer = _tokenizer((*SPECIAL, *SPEAKERS, *VISUAL, "<image>"), {})
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(
            size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=4
        ),
        tokenizer=tokenizer,
        patch_size=14,
        img_size=TILE,
        downsample_factor=2,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = AyaVisionConfig(
        vision_config=_vision(),
        text_config=_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    return seeded(AyaVisionForConditionalGeneration, config, seed), processor


def tiny_cohere2_vision(*, seed: int = 0) -> TinyModel:
    """A random `Cohere2VisionForConditionalGeneration` with its processor: at most four tiles of 2x2 cells."""
    from transformers import (
        Cohere2VisionConfig,
        Cohere2VisionForConditionalGeneration,
        Cohere2VisionImageProcessor,
        Cohere2VisionProcessor,
    )

    named = {
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tokenizer = _tokenizer((*SPECIAL, *SPEAKERS, *VISUAL), named)
    processor = Cohere2VisionProcessor(
        image_processor=Cohere2VisionImageProcessor(size={"height": TILE, "width": TILE}, max_patches=4, patch_size=2),
        tokenizer=tokenizer,
        chat_template=TEMPLATE.replace("IMAGE", "<|IMG_PATCH|>"),
    )
    config = Cohere2VisionConfig(
        vision_config=_vision(),
        text_config=_text(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    return seeded(Cohere2VisionForConditionalGeneration, config, seed), processor


def _tokenizer(special: tuple[str, ...], named: dict[str, str]) -> Any:
    return byte_tokenizer(special, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>", named=named)


def _vision() -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=14,
        vision_use_head=False,
    )


def _text(tokenizer: Any) -> Any:
    """A local layer and a global one, which has no positions."""
    from transformers import Cohere2Config

    return Cohere2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        logit_scale=1.0,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=WIDE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
