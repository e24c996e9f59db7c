"""Tiny random Qwen-VL models; see `grounding.models.tiny`."""

from __future__ import annotations

from grounding.models.tiny.parts import TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    visual = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_tokenizer(special + visual, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    pixels = {"shortest_edge": 28 * 28 * 4, "longest_edge": max_pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=QWEN_TEMPLATE,
    )
    pairs = hidden // heads // 2
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": intermediate or 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],  # time, height, width
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.15,
    }
    ids = dict(zip(visual, tokenizer.convert_tokens_to_ids(list(visual)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    return seeded(Qwen2_5_VLForConditionalGeneration, config, seed), processor
