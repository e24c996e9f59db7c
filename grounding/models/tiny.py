"""Tiny random models of the real classes, with tokenizers and processors built in memory.

Their attention, masks, caches, grids and chat templates are those of the full-size family on the installed versions.
`doctor` and the tests compare recorded rows with eager attention on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from grounding.text.tiny import byte_tokenizer

TinyModel = tuple[Any, Any]

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<image>\n{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_llava(
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 4,
    hidden: int = 32,
    image_size: int = 56,
    resize: Literal["crop", "exact"] = "crop",
    seed: int = 0,
) -> TinyModel:
    """A random `LlavaForConditionalGeneration` with its processor.

    Args:
        layers: decoder layers.
        heads: query heads per layer.
        kv_heads: key and value heads per layer; fewer than `heads` is grouped-query attention.
        hidden: width of the decoder.
        image_size: side of the square picture the vision tower sees, a multiple of its 14 px patches; 56 gives 4x4
            image tokens.
        resize: `crop`: shortest edge and centre crop as LLaVA-1.5 does; `exact`: resized to the square without a crop.
        seed: the weights' seed. torch's global random state is left as it was.

    Returns:
        (model in eval mode, float32, on the CPU; processor).
    """
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = byte_tokenizer(("<unk>", "<s>", "</s>", "<pad>", "<image>"), bos="<s>", eos="</s>", pad="<pad>")
    square = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": image_size} if resize == "crop" else square,
        crop_size=square,
        do_center_crop=resize == "crop",
    )
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=14,
        initializer_range=0.15,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        initializer_range=0.15,  # wide, so that random attention is far from uniform; float32 rounding stays small
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // 14) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    return _seeded(LlavaForConditionalGeneration, config, seed), processor


def tiny_llava_gqa(**options: Any) -> TinyModel:
    """`tiny_llava` with eight query heads on two key heads; takes the same options."""
    return tiny_llava(**{"heads": 8, "kv_heads": 2, **options})


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
    return _seeded(Qwen2_5_VLForConditionalGeneration, config, seed), processor


def _seeded(model_class: Any, config: Any, seed: int) -> Any:
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    return model.eval()


TINY: dict[str, Callable[..., TinyModel]] = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl}
