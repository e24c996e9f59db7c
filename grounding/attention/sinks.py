"""Attention sinks in the residual stream: the one definition that recording, maps, steering and diagnostics share.

Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models", ICLR 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from grounding.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

TAU = 20.0
"""The paper's threshold on phi."""

SKIP_LAYERS = 2
"""The first layers, in which the paper looks for no sinks."""

SINK_DIMENSIONS = 2
"""How many sink dimensions are looked for where the model's own are not known; the paper lists two per model."""

T = TypeVar("T", "Tensor", FloatArray)


@dataclass(frozen=True)
class SinkRule:
    """Decide which keys are attention sinks.

    Attributes:
        tau: a key with phi >= tau is a sink.
        skip_layers: the first layers, in which no key counts as a sink.

    """

    tau: float = TAU
    skip_layers: int = SKIP_LAYERS

    def sinks(self, phi: T, layer: int) -> T:
        """Which keys are sinks.

        Args:
            phi: [..., K] from `sink_strength`.
            layer: the decoder layer that phi was measured at the input of, counted from 0.

        Returns:
            [..., K] bool.
        """
        return (phi >= self.tau) & (layer >= self.skip_layers)  # type: ignore[return-value]


SINKS = SinkRule()
"""The paper's rule."""


def sink_dimensions(hidden: Tensor, first: int, count: int = SINK_DIMENSIONS) -> Tensor:
    """The dimensions in which a token's residual is largest.

    Args:
        hidden: [N, E] block input of one batch element.
        first: index of the first real token.
        count: how many dimensions to name.

    Returns:
        [count] int64.

    Notes:
        The paper gives two dimensions per model; finding them at the first token is our choice.
    """
    return hidden[first].abs().topk(min(count, hidden.shape[-1])).indices


def sink_strength(hidden: Tensor, dims: Tensor, eps: float = 1e-6) -> Tensor:
    """phi: how far each token stands out in the sink dimensions.

    phi(x) = max over sink dimensions d of |x[d]| / sqrt(mean(x^2) + eps).

    Args:
        hidden: [K, E] block input of the tokens.
        dims: [k] int64 sink dimensions.
        eps: the paper's constant under the root.

    Returns:
        [K] float32.
    """
    import torch  # here, so that rooms without torch can use the rule

    square = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32).square() / hidden.shape[-1]
    return hidden.index_select(-1, dims).float().abs().amax(dim=-1) / torch.sqrt(square + eps)
