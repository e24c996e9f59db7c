"""Tiny random models of the Gemma family; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

GEMMA3_TOKENS = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}
GEMMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<start_of_image>{% else %}"
    "{{ content['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LINES = ("ĊĊ", "ĊĊĊ")  # as in Gemma's vocabulary, several newlines are one token
SIDE = 56  # px, 4x4 patches of 14 px


def tiny_gemma3(*, seed: int = 0, pan_and_scan: bool = False) -> TinyModel:
    """A random `Gemma3ForConditionalGeneration` with its processor: views of 2x2 cells, a local and a global layer.

    Args:
        seed: the weights' seed.
        pan_and_scan: crop pictures more than 1.2 times as long as wide.
    """
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *GEMMA3_TOKENS.values()),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        named=GEMMA3_TOKENS,
        whole=LINES,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(
            size={"height": SIDE, "width": SIDE},
        ),
        tokenizer=tokenizer,
        chat_template=GEMMA3_TEMPLATE,
        image_seq_length=4,
    )
    if pan_and_scan:
        processor.images_kwargs = {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 16,
            "pan_and_scan_max_num_crops": 3,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        }
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=gemma_text(tokenizer) | {"sliding_window": 128, "query_pre_attn_scalar": 8},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        initializer_range=WIDE,
    )
    return seeded(Gemma3ForConditionalGeneration, config, seed, ("mm_input_projection_weight",)), processor


def gemma_text(tokenizer: Any) -> dict[str, Any]:
    """The settings of a tiny decoder with a local and a global layer."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "initializer_range": WIDE,
        "layer_types": ["sliding_attention", "full_attention"],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def tiny_paligemma(*, seed: int = 0, second: bool = False) -> TinyModel:
    """A random `PaliGemmaForConditionalGeneration` with its processor: 4x4 cells.

    Args:
        seed: the weights' seed.
        second: PaliGemma 2, whose decoder is Gemma 2: soft-capped logits, under which only the eager kernel runs here.
    """
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer(
        ("<pad>", "<eos>", "<bos>", "<image>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        named={"image_token": "<image>"},
        whole=LINES,
    )
    image_processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    image_processor.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    text = gemma_text(tokenizer) | {"model_type": "gemma2" if second else "gemma"}
    if second:
        text |= {"sliding_window": 128, "query_pre_attn_scalar": 8}
    else:
        text.pop("layer_types")
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer),
    )
    return seeded(PaliGemmaForConditionalGeneration, config, seed, kernel="eager" if second else "sdpa"), processor
