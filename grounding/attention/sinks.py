"""Define attention sinks in the residual stream, for recording, maps, steering and diagnostics.

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
"""Number of first layers in which the paper finds no sinks."""

SINK_DIMENSIONS = 2
"""Number of sink dimensions to find where the model's are not known; the paper lists two per model."""

T = TypeVar("T", "Tensor", FloatArray)


@dataclass(frozen=True)
class SinkRule:
    """Decide which keys are attention sinks.

    Attributes:
        tau: a key with phi >= tau is a sink.
        skip_layers: number of first layers in which no key is a sink.
    """

    tau: float = TAU
    skip_layers: int = SKIP_LAYERS

    def sinks(self, phi: T, layer: int) -> T:
        """Decide which keys are sinks.

        Args:
            phi: [..., K] from `sink_strength`.
            layer: the decoder layer at whose input phi was measured, counted from 0.

        Returns:
            [..., K] bool.
        """
        return (phi >= self.tau) & (layer >= self.skip_layers)  # type: ignore[return-value]


SINKS = SinkRule()
"""The paper's rule."""


def sink_dimensions(hidden: Tensor, first: int, count: int = SINK_DIMENSIONS) -> Tensor:
    """Find the dimensions in which a token's residual is largest in absolute value.

    Args:
        hidden: [N, E] layer input of one batch element.
        first: index of the first token that is not padding.
        count: number of dimensions.

    Returns:
        [count] int64.

    Notes:
        The paper gives two dimensions per model; finding them at the first token is our choice.
    """
    return hidden[first].abs().topk(min(count, hidden.shape[-1])).indices


def sink_strength(hidden: Tensor, dims: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute phi of each token, its largest normalised activation in the sink dimensions.

    phi(x) = max over sink dimensions d of |x[d]| / sqrt(mean(x^2) + eps).

    Args:
        hidden: [K, E] layer input of the tokens.
        dims: [k] int64 sink dimensions.
        eps: the paper's constant under the root.

    Returns:
        [K] float32.
    """
    import torch  # here, so that modules without torch can import the rule

    square = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32).square() / hidden.shape[-1]
    return hidden.index_select(-1, dims).float().abs().amax(dim=-1) / torch.sqrt(square + eps)
