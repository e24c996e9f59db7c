"""Attention written out as [B, H, Q, K] weights, with the formula of one modulation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grounding.models.base import VLM
from grounding.steering.base import GenerationContext
from grounding.steering.modulation import Modulation, Pai, Renormalise, Values
from grounding.steering.redistribution import Redistribute
from grounding.steering.text_route import Gate, TextRoute

TAU = 1.5  # random residuals have no sinks of phi 20, and the models have few layers


class Reference:
    """Compute a decoder's attention as [B, H, Q, K] weights, with the formula of one modulation."""

    def __init__(self, modulation: Modulation, context: GenerationContext) -> None:
        self.modulation, self.layouts = modulation, context.prepared.layouts
        self.prompt = context.prepared.length
        self.crosses = context.vlm.map_attention == "cross"  # then layers of cross-attention alone are edited
        self.cross_layers = context.vlm.cross_layers
        self.sinks: dict[int, Tensor] = {}
        layers, heads = context.vlm.layer_count, context.vlm.head_count
        self.on = torch.zeros(layers, heads, dtype=torch.bool)
        for layer, head in modulation.heads.listed or [(i, j) for i in range(layers) for j in range(heads)]:
            self.on[layer, head] = True

    def find_sinks(self, layer: int, hidden: Tensor) -> None:
        if hidden.shape[1] < self.prompt:
            return
        rows = []
        for r in range(len(hidden)):
            x, pad = hidden[r], self.layouts[r // (len(hidden) // 2)].padding
            rms = x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt()
            dims = x[pad].abs().topk(2).indices
            sink = rms[:, dims].abs().amax(-1) >= TAU
            sink[:pad] = False
            sink[self.prompt :] = False
            rows.append(sink)
        self.sinks[layer] = torch.stack(rows)

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: Any) -> Any:
        modulation, layer, groups = self.modulation, module.layer_idx, query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        (batch, _, queries, _), keys = query.shape, key.shape[2]
        logits = query @ key.transpose(-1, -2) * options["scaling"]
        if (cap := options.get("softcap")) is not None:
            logits = cap * (logits / cap).tanh()
        logits = logits + mask[..., :keys]
        first = 0 if self.crosses else keys - queries
        image, text = torch.zeros(2, batch, 1, 1, keys, dtype=torch.bool)
        row = torch.zeros(batch, 1, queries, 1, dtype=torch.bool)
        for r in range(batch):
            layout = self.layouts[r // (batch // 2)]
            if not self.crosses or layer in self.cross_layers:
                image[r, ..., layout.keys if self.crosses else layout.image] = True
            text[r, ..., layout.image.max() + 1 :] = True
            start = {
                "last": layout.length - 1, "text": int(layout.image.max()) + 1, "all": layout.padding
            }[modulation.prefill]  # fmt: skip
            row[r, 0, max(start - first, 0) :] = True
        on = self.on[layer][None, :, None, None] & row
        weights = logits.softmax(-1)
        if isinstance(modulation, Renormalise):
            times = torch.where(on & image, modulation.gain, 1.0)
            weights = weights * times / (weights * times).sum(-1, keepdim=True)
        elif isinstance(modulation, Values):
            weights = weights * torch.where(on & image, modulation.gain, 1.0)
        elif isinstance(modulation, Pai):
            weights = (logits + torch.where(on & image, modulation.strength * logits.abs(), 0.0)).softmax(-1)
        elif isinstance(modulation, TextRoute):
            on = on & ((weights * text).sum(-1, keepdim=True) >= modulation.mass)
            weights = weights * torch.where(on & text, modulation.gain, 1.0)
            weights = weights / weights.sum(-1, keepdim=True) if modulation.renormalise else weights
        elif isinstance(modulation, Redistribute):
            sink = self.sinks[layer]
            sink = torch.nn.functional.pad(sink, (0, max(keys - sink.shape[1], 0)))[:, None, None, :keys]
            visual = (weights * image).sum(-1, keepdim=True)
            free = (weights * (image & ~sink)).sum(-1, keepdim=True)
            passed = (
                free / visual >= modulation.rho
                if modulation.head_rule == "non-sink"
                else 1 - free / visual <= modulation.rho
            )
            on = on & passed & (visual >= modulation.visual_mass)
            moved = (weights * sink).sum(-1, keepdim=True) * (1 - modulation.kept)
            target = torch.where(sink, weights * modulation.kept, weights + moved * weights * (image & ~sink) / free)
            weights = torch.where(on, target, weights)
            self.changed = bool(on.any() and sink.any())
        output = weights @ value
        if isinstance(modulation, Gate):
            output = torch.where(on, output * modulation.gain, output)
        return output.transpose(1, 2).contiguous(), weights


def configs_of(decoder: Any) -> list[Any]:
    """Return every config that decides the decoder's kernel and masks; modules may hold different objects."""
    modules = [decoder, *decoder.layers.modules()]  # a tower within the decoder keeps its own
    return list({id(m.config): m.config for m in modules if hasattr(m, "config")}.values())


@contextmanager
def reference_attention(vlm: VLM, reference: Reference) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("written_out", reference)
    AttentionMaskInterface.register("written_out", eager_mask)
    layers = vlm.decoder.layers
    configs = configs_of(vlm.decoder)
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, i=i: reference.find_sinks(i, args[0]))
        for i, layer in enumerate(layers)
    ]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation_internal = "written_out"
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        for hook in hooks:
            hook.remove()
        AttentionInterface._global_mapping.pop("written_out")
        AttentionMaskInterface._global_mapping.pop("written_out")
