"""Tiny random pipelines of diffusers' real classes, with tokenizers built in memory, for tests and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_WORDS = ("the", "a", "red", "blue", "dog", "left", "of", "star", "on", "with", "to", "pink", "describe", "image")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:;'-_"
_SIDE = 32  # pixels; four cells along each side


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


def picture_vae(channels: int = 4) -> Any:
    """An autoencoder of pictures with a factor of 4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=_SIDE,
        scaling_factor=0.5,
        shift_factor=0.1,
        force_upcast=False,
    ).eval()


def tiny_flux(*, guidance: bool = False) -> Any:
    """A random `FluxPipeline` of two double and two single blocks."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    t5, clip = t5_tokenizer(), clip_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=picture_vae(),
        text_encoder=clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=t5_encoder(t5),
        tokenizer_2=t5,
        transformer=transformer.eval(),
    )


TINY: dict[str, Callable[[], Any]] = {"FluxPipeline": tiny_flux}
"""Tiny pipelines by class name; see `tiny_pipeline`."""


def tiny_pipeline(class_name: str, seed: int = 0) -> Any:
    """A tiny random pipeline.

    Args:
        class_name: a key of `TINY`.
        seed: the weights' seed; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = TINY[class_name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe
