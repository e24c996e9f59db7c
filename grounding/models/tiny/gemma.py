"""Tiny random models of the Gemma family; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

import torch

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
        text_config=_text(tokenizer) | {"sliding_window": 128, "query_pre_attn_scalar": 8},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        initializer_range=WIDE,
    )
    return seeded(Gemma3ForConditionalGeneration, config, seed, ("mm_input_projection_weight",)), processor


def _text(tokenizer: Any) -> dict[str, Any]:
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
    text = _text(tokenizer) | {"model_type": "gemma2" if second else "gemma"}
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


GEMMA4_TOKENS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
GEMMA4_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|image|>{% else %}"
    "{{ content['text'] | trim }}{% endif %}{% endfor %}<turn|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|turn>model\n{% if not enable_thinking | default(true) %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
)


def tiny_gemma4(*, seed: int = 0, large: bool = False) -> TinyModel:
    """A random `Gemma4ForConditionalGeneration` with its processor: at most 70 cells, local and global layers in turn.

    Args:
        seed: the weights' seed.
        large: as the large checkpoints: experts, one projection for keys and values of global layers, image tokens that
            see each other. Otherwise as the small ones: an embedding per layer, and the last layer uses the keys
            of the second.
    """
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    special = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|video|>")
    tokenizer = byte_tokenizer(
        (*special, *GEMMA4_TOKENS.values()), bos="<bos>", eos="<eos>", pad="<pad>", named=GEMMA4_TOKENS, whole=LINES
    )
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer,
        Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70),
        chat_template=GEMMA4_TEMPLATE,
    )
    text = _text(tokenizer) | {"sliding_window": 256, "global_head_dim": 16}
    if large:
        text |= {
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "use_bidirectional_attention": "vision",
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        }
    else:
        text |= {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "num_kv_shared_layers": 1,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": len(tokenizer),
        }
    config = Gemma4Config(
        text_config=text,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "position_embedding_size": 64,
            "initializer_range": WIDE,
        },
        audio_config=None,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        audio_token_id=tokenizer.audio_token_id,
        initializer_range=WIDE,
    )
    model = seeded(Gemma4ForConditionalGeneration, config, seed)
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            layer.self_attn.q_norm.weight.mul_(0.3)  # logits are not scaled down, and norms of 1 make them too large
    return model, processor
