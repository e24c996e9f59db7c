"""The attention flow of `grounding.attention_flow`, by products of N x N matrices in float64."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from grounding.attention_flow import AttentionFlow

VLSAM = AttentionFlow()
DECAF = AttentionFlow("max_image", relative=True, rollout="product", residual=0.5, regulariser="none")


def explicit_flow(
    layers: Iterable[Tensor], rule: AttentionFlow, real: Tensor | None = None, image: Tensor | None = None
) -> Tensor:
    """F [N, N].

    Args:
        layers: softmax weights [H, N, N] of each layer, from the first to the last.
        rule: how attention is joined.
        real: [N] bool, tokens; all where None.
        image: [C] positions of the image.
    """
    rollout = factors = None
    for given in layers:
        weights = given.double()
        one = torch.eye(weights.shape[-1], dtype=torch.float64)
        if rollout is None:
            rollout = torch.zeros_like(one) if rule.rollout == "sum" else one
        real = torch.ones(len(one), dtype=torch.bool) if real is None else real
        weights = weights * real[:, None]
        share = torch.ones(len(weights), dtype=torch.float64)
        if rule.head_weights != "mean":
            seen = weights if rule.head_weights == "max_all" else weights[..., image]
            share = seen.amax(-1).sum(-1) / real.sum()
        if rule.relative:
            share = share / share.max()
        joined = (share[:, None, None] * weights).mean(0)
        factors = 1 - ((weights > 0).any(0).sum(0) - 1) / real.sum()
        if rule.regulariser == "layer":
            joined = joined * factors
        step = one + joined if rule.residual is None else rule.residual * one + (1 - rule.residual) * joined
        rollout = step @ (one + rollout) if rule.rollout == "sum" else step @ rollout
        if rule.regulariser == "rollout":
            rollout = rollout * factors
    assert rollout is not None
    return rollout * factors if rule.regulariser == "end" else rollout
