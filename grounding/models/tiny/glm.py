"""Tiny random GLM-V models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

CELL = 28  # px, 2x2 patches of 14 px
SPECIAL = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>", "/nothink")
VISUAL = (
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
PLAIN = "enable_thinking is defined and enable_thinking is false"
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|user|>\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif content['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>{% else %}{{ content['text'] }}"
    f"{{% endif %}}{{% endfor %}}{{% if {PLAIN} %}}/nothink{{% endif %}}{{% endfor %}}"
    "{% if add_generation_prompt %}<|assistant|>\n"
    f"{{% if {PLAIN} %}}<think></think>\n{{% endif %}}{{% endif %}}"
)


def tiny_glm4v(*, seed: int = 0) -> TinyModel:
    """A random `Glm4vForConditionalGeneration` with its processor: at most 24 cells."""
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    processor = _processor()
    config = Glm4vConfig(text_config=_text(processor), vision_config=_vision(), **_ids(processor))
    return seeded(Glm4vForConditionalGeneration, config, seed), processor


def tiny_glm4v_moe(*, seed: int = 0) -> TinyModel:
    """A random `Glm4vMoeForConditionalGeneration` with its processor: four experts in the second layer."""
    from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

    processor = _processor()
    experts = {
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    }
    config = Glm4vMoeConfig(text_config=_text(processor) | experts, vision_config=_vision(), **_ids(processor))
    return seeded(Glm4vMoeForConditionalGeneration, config, seed), processor


def tiny_glm46v(*, seed: int = 0) -> TinyModel:
    """A random `Glm46VForConditionalGeneration` with its processor: at most 24 cells."""
    from transformers import (
        Glm46VConfig,
        Glm46VForConditionalGeneration,
        Glm46VImageProcessor,
        Glm46VProcessor,
        Glm46VVideoProcessor,
    )

    processor = _processor(Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor)
    text, vision = _text(processor) | {"model_type": "glm4v_text"}, _vision() | {"model_type": "glm4v_vision"}
    config = Glm46VConfig(text_config=text, vision_config=vision, **_ids(processor))
    return seeded(Glm46VForConditionalGeneration, config, seed), processor


def _processor(*classes: Any) -> Any:
    """A processor of GLM-4V's classes, or of these three: of the whole, of images and of videos."""
    from transformers import Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

    of_all, of_images, of_videos = classes or (Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor)
    pixels = {"shortest_edge": CELL * CELL * 8, "longest_edge": CELL * CELL * 48}  # counted for two frames
    tokenizer = byte_tokenizer((*SPECIAL, *VISUAL), bos=None, eos="<|endoftext|>", pad="<|endoftext|>")
    return of_all(
        image_processor=of_images(size=pixels),
        tokenizer=tokenizer,
        video_processor=of_videos(size={name: 4 * most for name, most in pixels.items()}),  # of all frames
        chat_template=TEMPLATE,
    )


def _text(processor: Any) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "initializer_range": WIDE,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "image_size": 112,
        "initializer_range": WIDE,
    }


def _ids(processor: Any) -> dict[str, int]:
    ids = dict(zip(VISUAL, processor.tokenizer.convert_tokens_to_ids(list(VISUAL)), strict=True))
    return {
        "image_token_id": ids["<|image|>"],
        "video_token_id": ids["<|video|>"],
        "image_start_token_id": ids["<|begin_of_image|>"],
        "image_end_token_id": ids["<|end_of_image|>"],
        "video_start_token_id": ids["<|begin_of_video|>"],
        "video_end_token_id": ids["<|end_of_video|>"],
    }
