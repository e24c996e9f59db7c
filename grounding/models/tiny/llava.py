"""Tiny random LLaVA models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any, Literal

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<image>\n{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
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
        initializer_range=WIDE,
    )
    text = llama_text(tokenizer, layers, heads, kv_heads, hidden)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // 14) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
    return seeded(LlavaForConditionalGeneration, config, seed), processor


def tiny_llava_gqa(**options: Any) -> TinyModel:
    """`tiny_llava` with eight query heads on two key heads; takes the same options."""
    return tiny_llava(**{"heads": 8, "kv_heads": 2, **options})


def llama_text(tokenizer: Any, layers: int = 2, heads: int = 4, kv_heads: int = 2, hidden: int = 32) -> Any:
    """The config of a tiny Llama."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        initializer_range=WIDE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
