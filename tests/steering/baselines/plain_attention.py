"""Reference attention, for full passes without a cache over one unpadded prompt and its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

Change = Callable[[int, Tensor, Tensor], Tensor]
"""A function from layer index, masked logits [H, N, N] and layer input [N, E] to weights [H, N, N]."""


@contextmanager
def attending(model, change: Change) -> Iterator[None]:
    """Compute the attention of every decoder layer by `change` inside the block."""
    name = "written_out"
    residuals: dict[int, Tensor] = {}
    handles = []

    def attend(module, query, key, value, mask, scaling, **options):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        logits = (query[0] @ key[0].transpose(-1, -2)) * scaling
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        index = module.layer_idx
        weights = change(index, logits.masked_fill(future, -torch.inf), residuals[index])
        return (weights @ value[0])[None].transpose(1, 2).contiguous(), None

    def keep(index: int):
        def before(module, args, kwargs):
            residuals[index] = (args[0] if args else kwargs["hidden_states"])[0]

        return before

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.set_attn_implementation({"text_config": name})
    for index, layer in enumerate(model.get_decoder().layers):
        handles.append(layer.register_forward_pre_hook(keep(index), with_kwargs=True))
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})
        for handle in handles:
            handle.remove()
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)
