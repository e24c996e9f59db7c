"""Run a FLUX transformer and return, beside its output, its attention from image to text tokens with a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Rotary = tuple[Tensor, Tensor]


class Looked(NamedTuple):
    """Output of a block: image [B, X, D], text [B, T, D], attention [B, X, T]."""

    image: Tensor
    text: Tensor
    attention: Tensor


def look(
    transformer: FluxTransformer2DModel, image: Tensor, text: Tensor, pooled: Tensor, levels: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute what the transformer's own `forward` does, block by block.

    Args:
        transformer: the model.
        image: packed noisy latents [B, X, 4C].
        text: T5 states [B, T, width].
        pooled: [B, width].
        levels: noise levels [B].
        places: position ids [T + X, 3], text first.

    Returns:
        (output [B, X, 4C], attention [B, X, T]: softmax over the text tokens, mean over heads and blocks).
    """
    image = transformer.x_embedder(image)
    modulation = transformer.time_text_embed(levels.to(image.dtype) * 1000, pooled)
    text = transformer.context_embedder(text)
    rotary = transformer.pos_embed(places)
    maps = []
    step = _compiled if image.is_cuda else looked
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        image, text, attention = step(block, image, text, modulation, rotary)
        maps.append(attention)
    return transformer.proj_out(transformer.norm_out(image, modulation)), torch.stack(maps).mean(dim=0)


def looked(block: Any, image: Tensor, text: Tensor, modulation: Tensor, rotary: Rotary) -> Looked:
    """Run a block and return its attention too; the compiler merges the projections that both compute."""
    attention = image_to_text(block, image, text, modulation, rotary)
    # `forward`, since the block may be compiled on its own as well.
    text, image = block.forward(
        hidden_states=image, encoder_hidden_states=text, temb=modulation, image_rotary_emb=rotary
    )
    return Looked(image, text, attention)


_compiled = torch.compile(looked, dynamic=False)


def image_to_text(block: Any, image: Tensor, text: Tensor, modulation: Tensor, rotary: Rotary) -> Tensor:
    """Return the block's attention from image to text tokens, softmax over the text tokens, mean over heads.

    Args:
        block: a double or single block (`Any`: its parts are untyped attributes).
        image: its image input [B, X, D].
        text: its text input [B, T, D].
        modulation: [B, D].
        rotary: cosines and sines of all tokens, [T + X, head width] each.

    Returns:
        [B, X, T].
    """
    attn, length = block.attn, text.shape[1]
    if attn.added_kv_proj_dim is not None:
        image = block.norm1(image, emb=modulation)[0]
        text = block.norm1_context(text, emb=modulation)[0]
        query = attn.norm_q(attn.to_q(image).unflatten(-1, (attn.heads, -1)))
        key = attn.norm_added_k(attn.add_k_proj(text).unflatten(-1, (attn.heads, -1)))
    else:
        both = block.norm(torch.cat([text, image], dim=1), emb=modulation)[0]
        query = attn.norm_q(attn.to_q(both).unflatten(-1, (attn.heads, -1)))[:, length:]
        key = attn.norm_k(attn.to_k(both).unflatten(-1, (attn.heads, -1)))[:, :length]
    query = apply_rotary_emb(query, tuple(part[length:] for part in rotary), sequence_dim=1)
    key = apply_rotary_emb(key, tuple(part[:length] for part in rotary), sequence_dim=1)
    logits = torch.einsum("bxhd,bthd->bhxt", query, key) / query.shape[-1] ** 0.5
    return logits.float().softmax(dim=-1).mean(dim=1)
