"""Tiny random Qwen-VL models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING_TEMPLATE = QWEN_TEMPLATE.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISUAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def tiny_qwen2_5_vl(
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    hidden: int = 32,
    intermediate: int | None = None,
    seed: int = 0,
    max_pixels: int = 28 * 28 * 24,
) -> TinyModel:
    """A random `Qwen2_5_VLForConditionalGeneration` with its processor.

    Args:
        layers: decoder layers.
        heads: query heads per layer.
        kv_heads: key and value heads per layer.
        hidden: width of the decoder, a multiple of 8 per head.
        intermediate: width of the feed-forward layers; twice `hidden` where None.
        seed: the weights' seed. torch's global random state is left as it was.
        max_pixels: largest resized picture in pixels; each 28x28 of them is one image token.

    Returns:
        (model in eval mode, float32, on the CPU; processor).
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    processor = _processor(Qwen2_5_VLProcessor, 14, max_pixels)
    text = _text(processor, layers, heads, kv_heads, hidden, intermediate or 2 * hidden)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [1],
        "initializer_range": WIDE,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_ids(processor))
    return seeded(Qwen2_5_VLForConditionalGeneration, config, seed), processor


def tiny_qwen2_vl(*, seed: int = 0) -> TinyModel:
    """A random `Qwen2VLForConditionalGeneration` with its processor; see `tiny_qwen2_5_vl`."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    processor = _processor(Qwen2VLProcessor, 14)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "initializer_range": WIDE}
    config = Qwen2VLConfig(text_config=_text(processor), vision_config=vision, **_ids(processor))
    return seeded(Qwen2VLForConditionalGeneration, config, seed), processor


def tiny_qwen3_vl(*, seed: int = 0) -> TinyModel:
    """A random `Qwen3VLForConditionalGeneration` with its processor; both decoder layers get deepstack features."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    processor = _processor(Qwen3VLProcessor, 16)
    vision = _vision3(deepstack_visual_indexes=[0, 1])
    config = Qwen3VLConfig(text_config=qwen3_text(processor), vision_config=vision, **_ids(processor))
    return seeded(Qwen3VLForConditionalGeneration, config, seed), processor


def tiny_qwen3_vl_moe(*, seed: int = 0) -> TinyModel:
    """A random `Qwen3VLMoeForConditionalGeneration` with its processor: four experts, two per token."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, Qwen3VLProcessor

    processor = _processor(Qwen3VLProcessor, 16)
    vision = _vision3(deepstack_visual_indexes=[0, 1])
    config = Qwen3VLMoeConfig(text_config=qwen3_text(processor) | EXPERTS, vision_config=vision, **_ids(processor))
    return seeded(Qwen3VLMoeForConditionalGeneration, config, seed), processor


def tiny_qwen3_5(*, seed: int = 0) -> TinyModel:
    """A random `Qwen3_5ForConditionalGeneration` with its processor: a layer of linear attention, then a full one."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor

    processor = _processor(Qwen3VLProcessor, 16, template=THINKING_TEMPLATE)
    text = qwen3_text(processor) | LINEAR
    config = Qwen3_5Config(text_config=text, vision_config=_vision3(), **_ids(processor))
    return seeded(Qwen3_5ForConditionalGeneration, config, seed), processor


def tiny_qwen3_5_moe(*, seed: int = 0) -> TinyModel:
    """A random `Qwen3_5MoeForConditionalGeneration` with its processor: as `tiny_qwen3_5`, with experts."""
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, Qwen3VLProcessor

    processor = _processor(Qwen3VLProcessor, 16, template=THINKING_TEMPLATE)
    text = qwen3_text(processor) | LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32}
    config = Qwen3_5MoeConfig(text_config=text, vision_config=_vision3(), **_ids(processor))
    return seeded(Qwen3_5MoeForConditionalGeneration, config, seed), processor


LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "partial_rotary_factor": 0.5,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


def _processor(processor_class: Any, patch: int, max_pixels: int | None = None, template: str = QWEN_TEMPLATE) -> Any:
    """A processor whose image tokens are two patches wide and high, and at most 24 where `max_pixels` is None."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    cell = (2 * patch) ** 2
    marks = ("<think>", "</think>") if template is THINKING_TEMPLATE else ()
    tokenizer = byte_tokenizer((*SPECIAL, *VISUAL, *marks), bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    pixels = {"shortest_edge": cell * 4, "longest_edge": max_pixels or cell * 24}
    whole_clip = {"shortest_edge": cell * 4, "longest_edge": 8 * cell * 24}  # of all frames
    video_class = Qwen3VLVideoProcessor if processor_class is Qwen3VLProcessor else Qwen2VLVideoProcessor
    return processor_class(
        image_processor=Qwen2VLImageProcessor(size=pixels, patch_size=patch),
        tokenizer=tokenizer,
        video_processor=video_class(size=whole_clip, patch_size=patch, cap_pixels_per_frame=False),
        chat_template=template,
    )


def _text(
    processor: Any, layers: int = 2, heads: int = 4, kv_heads: int = 2, hidden: int = 32, intermediate: int = 64
) -> dict[str, Any]:
    tokenizer, pairs = processor.tokenizer, hidden // heads // 2
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
        "initializer_range": WIDE,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],  # time, height, width
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def qwen3_text(processor: Any) -> dict[str, Any]:
    """The decoder of Qwen3-VL: heads of a width of their own, and the axes of its positions interleaved."""
    text = _text(processor) | {"head_dim": 16}
    rope = {**text["rope_parameters"], "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    return text | {"rope_parameters": rope}


def _vision3(**options: Any) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "initializer_range": WIDE,
        **options,
    }


def _ids(processor: Any) -> dict[str, int]:
    ids = dict(zip(VISUAL, processor.tokenizer.convert_tokens_to_ids(list(VISUAL)), strict=True))
    return {
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
    }


def qwen2_text(tokenizer: Any) -> Any:
    """The config of a tiny Qwen2, the decoder of several families."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=WIDE,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
