"""Text encoders, tokenizers and autoencoders at tiny size with random weights, for tiny pipelines."""

from __future__ import annotations

from typing import Any

from grounding.text.tiny import byte_tokenizer

_WORDS = ("the", "a", "red", "blue", "dog", "left", "of", "star", "on", "with", "to", "pink", "describe", "image")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:;'-_"
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIDE = 32  # pixels; four cells along each side


def t5_tokenizer(length: int = 24) -> Any:
    """A T5 tokenizer that writes its known words as one piece and others letter by letter."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in _WORDS] + [(letter, -3.0) for letter in _LETTERS]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def t5_encoder(tokenizer: Any, width: int = 16) -> Any:
    """A T5 encoder of one layer."""
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), dropout_rate=0.0, **sizes)).eval()


def clip_tokenizer(length: int = 24) -> Any:
    """A CLIP tokenizer without merges, one token a letter."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def clip_encoder(tokenizer: Any, width: int = 16, *, projected: bool = False) -> Any:
    """A CLIP text model of two layers, with a projection where SD3 wants one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def picture_vae(channels: int = 4, levels: int = 3) -> Any:
    """An autoencoder of pictures with a factor of 2 a level, the first excepted."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.5,
        shift_factor=0.1,
        force_upcast=False,
    ).eval()


def chat_tokenizer() -> Any:
    """A byte-level tokenizer with Qwen's chat template, which pads on the right."""
    tokenizer = byte_tokenizer(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos=None, eos="<|im_end|>", pad="<|endoftext|>"
    )
    tokenizer.padding_side = "right"
    tokenizer.chat_template = _CHAT
    return tokenizer


def qwen3(tokenizer: Any, layers: int) -> Any:
    """A Qwen3 language model."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=1024,
    )
    return Qwen3ForCausalLM(config).eval()


def gemma2(tokenizer: Any, width: int = 16) -> Any:
    """A Gemma 2 language model without its head, of two layers."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Gemma2Model(config).eval()
