"""Processors of FLUX and SD3 whose attention is a softmax written out, with weights that a test may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grounding.diffusion.base import DiffusionSource

Change = Callable[[Tensor, Tensor], Tensor]
"""From logits and weights [H, N, N] of one call to other weights."""


class Explicit:
    """Attention of one element; keeps the weights and the outputs before projection of every call.

    Args:
        change: changes the weights.
    """

    def __init__(self, change: Change) -> None:
        self.change = change
        self.weights: list[Tensor] = []  # [H, N, N]
        self.outputs: list[Tensor] = []  # [N, H * D]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, H, N, D] each to [1, N, H * D]."""
        logits = query[0].double() @ key[0].double().transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = self.change(logits, logits.softmax(-1))
        output = (weights @ value[0].double()).transpose(0, 1).flatten(1)
        self.weights.append(weights)
        self.outputs.append(output)
        return output[None].to(query.dtype)


class ExplicitFlux(Explicit):
    """In place of FLUX's processor."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        def heads(states: Tensor, project: Any, norm: Any) -> Tensor:
            return norm(project(states).unflatten(-1, (attn.heads, -1)))

        parts = [[heads(hidden_states, *pair) for pair in _pairs(attn.to_q, attn.to_k, attn.to_v, attn)]]
        if encoder_hidden_states is not None:
            added = _pairs(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn, "norm_added_")
            parts.insert(0, [heads(encoder_hidden_states, *pair) for pair in added])
        query, key, value = (torch.cat(some, dim=1) for some in zip(*parts, strict=True))
        query, key = (apply_rotary_emb(some, image_rotary_emb, sequence_dim=1) for some in (query, key))
        output = self.attend(*(some.transpose(1, 2) for some in (query, key, value)))
        if encoder_hidden_states is None:
            return output
        text = encoder_hidden_states.shape[1]
        return attn.to_out[0](output[:, text:]), attn.to_add_out(output[:, :text])


class ExplicitSD3(Explicit):
    """In place of SD3's processor."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **options: Any
    ) -> Any:
        def heads(states: Tensor, project: Any, norm: Any) -> Tensor:
            return norm(project(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2))

        own = [heads(hidden_states, *pair) for pair in _pairs(attn.to_q, attn.to_k, attn.to_v, attn)]
        added = _pairs(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn, "norm_added_")
        text = [heads(encoder_hidden_states, *pair) for pair in added]
        output = self.attend(*(torch.cat(both, dim=2) for both in zip(own, text, strict=True)))
        cells = hidden_states.shape[1]
        image, words = output[:, :cells], output[:, cells:]
        return attn.to_out[0](image), words if attn.context_pre_only else attn.to_add_out(words)


def _pairs(query: Any, key: Any, value: Any, attn: Any, norm: str = "norm_") -> list[tuple[Any, Any]]:
    """Projections with the norms behind them."""

    def same(states: Tensor) -> Tensor:
        return states

    return [
        (query, getattr(attn, f"{norm}q", None) or same),
        (key, getattr(attn, f"{norm}k", None) or same),
        (value, same),
    ]


@contextmanager
def explicit(source: DiffusionSource, change: Change) -> Iterator[list[Explicit]]:
    """Replace the processors of a source's layers, one per layer, inside the block."""
    kind = {"FluxPipeline": ExplicitFlux, "StableDiffusion3Pipeline": ExplicitSD3}[type(source.pipe).__name__]
    before = [layer.processor for layer in source.layers]  # type: ignore[attr-defined]
    processors = [kind(change) for _ in source.layers]
    for layer, processor in zip(source.layers, processors, strict=True):
        layer.processor = processor  # type: ignore[assignment]
    try:
        yield processors
    finally:
        for layer, processor in zip(source.layers, before, strict=True):
            layer.processor = processor  # type: ignore[assignment]


@contextmanager
def watched(source: DiffusionSource) -> Iterator[list[tuple[dict[str, Any], Tensor]]]:
    """The arguments and outputs of the transformer's runs inside the block."""
    seen: list[tuple[dict[str, Any], Tensor]] = []
    hook = source.transformer.register_forward_hook(
        lambda _, args, kwargs, output: seen.append((kwargs, output[0])), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()
