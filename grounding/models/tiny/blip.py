"""Tiny random BLIP-2 and InstructBLIP; see `grounding.models.tiny`."""

from __future__ import annotations

from typing import Any, Literal

from grounding.models.tiny.llava import llama_text
from grounding.models.tiny.parts import WIDE, TinyModel, seeded
from grounding.text.tiny import byte_tokenizer

SIDE = 56  # px, 4x4 patches of 14 px
QUERIES = 6


def tiny_instructblip(*, seed: int = 0, text: Literal["llama", "opt", "t5"] = "llama") -> TinyModel:
    """A random `InstructBlipForConditionalGeneration` with its processor: 4x4 patches read by 6 query tokens.

    Of four layers of the Q-Former two have cross-attention.

    Args:
        seed: the weights' seed.
        text: the language model.
    """
    from transformers import (
        BlipImageProcessor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    tokenizer, reader = _tokenizer(), byte_tokenizer(("[PAD]", "[CLS]"), bos="[CLS]", eos="[PAD]", pad="[PAD]")
    image_processor = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = InstructBlipProcessor(image_processor, tokenizer, reader, num_query_tokens=QUERIES)
    config = InstructBlipConfig(
        **_config(tokenizer, text) | {"qformer_config": _QFORMER | {"vocab_size": len(reader)}},
    )
    return seeded(InstructBlipForConditionalGeneration, config, seed, ("query_tokens",)), processor


def tiny_blip2(*, seed: int = 0, text: Literal["llama", "opt", "t5"] = "opt") -> TinyModel:
    """A random `Blip2ForConditionalGeneration` with its processor; see `tiny_instructblip`."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = _tokenizer()
    image_processor = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=QUERIES)
    config = Blip2Config(**_config(tokenizer, text))
    return seeded(Blip2ForConditionalGeneration, config, seed, ("query_tokens",)), processor


_LAYERS: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": WIDE,
}
_QFORMER = _LAYERS | {
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "encoder_hidden_size": 16,
    "initializer_range": 2 * WIDE,
}


def _tokenizer() -> Any:
    return byte_tokenizer(("<unk>", "<s>", "</s>", "<pad>", "<image>"), bos="<s>", eos="</s>", pad="<pad>")


def _config(tokenizer: Any, text: str) -> dict[str, Any]:
    """The settings of a whole model."""
    texts = {"llama": lambda tokens: llama_text(tokens).to_dict(), "opt": _opt, "t5": _t5}
    return {
        "vision_config": _LAYERS | {"image_size": SIDE, "patch_size": 14},
        "qformer_config": _QFORMER,
        "text_config": texts[text](tokenizer),
        "num_query_tokens": QUERIES,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "initializer_range": WIDE,
    }


def _opt(tokenizer: Any) -> dict[str, Any]:
    """The settings of a tiny OPT."""
    return {
        "model_type": "opt",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "init_std": WIDE,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _t5(tokenizer: Any) -> dict[str, Any]:
    """The settings of a tiny T5."""
    return {
        "model_type": "t5",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
