"""Tiny random Gemma 4 models; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any

import torch

from grounding.models.tiny.gemma import LINES, gemma_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

SPECIAL = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|video|>")
TOKENS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|image|>{% else %}"
    "{{ content['text'] | trim }}{% endif %}{% endfor %}<turn|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|turn>model\n{% if not enable_thinking | default(true) %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
)
IMAGES = {"patch_size": 4, "max_soft_tokens": 70}  # the fewest tokens that the processor allows
SMALL = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "hidden_size_per_layer_input": 8,
}
LARGE = {
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "use_bidirectional_attention": "vision",
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}


def tiny_gemma4(*, seed: int = 0, large: bool = False) -> TinyModel:
    """A random `Gemma4ForConditionalGeneration` with its processor: at most 70 cells, local and global layers.

    Args:
        seed: the weights' seed.
        large: as the large checkpoints: experts, one projection for keys and values of global layers, image tokens that
            see each other. Otherwise as the small ones: an embedding per layer, and the last layer uses the keys of the
            second.
    """
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    tokenizer = _tokenizer()
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(**IMAGES),
        tokenizer,
        Gemma4VideoProcessor(**IMAGES),
        chat_template=TEMPLATE,
    )
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": 4,
        "position_embedding_size": 64,
        "initializer_range": WIDE,
    }
    kind = LARGE if large else SMALL | {"vocab_size_per_layer_input": len(tokenizer)}
    config = Gemma4Config(text_config=_text(tokenizer) | kind, vision_config=vision, **_ids(tokenizer))
    return _softened(seeded(Gemma4ForConditionalGeneration, config, seed)), processor


def tiny_gemma4_unified(*, seed: int = 0) -> TinyModel:
    """A random `Gemma4UnifiedForConditionalGeneration`, which has no vision tower, with its processor."""
    from transformers import (
        Gemma4UnifiedAudioFeatureExtractor,
        Gemma4UnifiedConfig,
        Gemma4UnifiedForConditionalGeneration,
        Gemma4UnifiedImageProcessor,
        Gemma4UnifiedProcessor,
        Gemma4UnifiedVideoProcessor,
    )

    tokenizer = _tokenizer()
    processor = Gemma4UnifiedProcessor(
        Gemma4UnifiedAudioFeatureExtractor(),
        Gemma4UnifiedImageProcessor(**IMAGES),
        tokenizer,
        Gemma4UnifiedVideoProcessor(**IMAGES),
        chat_template=TEMPLATE,
    )
    vision = {
        "patch_size": 4,
        "mm_embed_dim": 32,
        "mm_posemb_size": 64,
        "output_proj_dims": 32,
        "initializer_range": WIDE,
    }
    config = Gemma4UnifiedConfig(text_config=_text(tokenizer), vision_config=vision, **_ids(tokenizer))
    return _softened(seeded(Gemma4UnifiedForConditionalGeneration, config, seed)), processor


def _tokenizer() -> Any:
    return byte_tokenizer(
        (*SPECIAL, *TOKENS.values()), bos="<bos>", eos="<eos>", pad="<pad>", named=TOKENS, whole=LINES
    )


def _text(tokenizer: Any) -> dict[str, Any]:
    return gemma_text(tokenizer) | {"sliding_window": 256, "global_head_dim": 16}


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "audio_config": None,
        "boi_token_id": tokenizer.boi_token_id,
        "eoi_token_id": tokenizer.eoi_token_id,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video|>"),
        "boa_token_id": tokenizer.boa_token_id,
        "eoa_token_index": tokenizer.eoa_token_id,
        "audio_token_id": tokenizer.audio_token_id,
        "initializer_range": WIDE,
    }


def _softened(model: Any) -> Any:
    """The model with small query norms: its logits are not scaled down, and norms of 1 make them too large."""
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            layer.self_attn.q_norm.weight.mul_(0.3)
    return model
