"""Define attention flow: how attention is followed through the layers of a decoder to one row per query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from grounding.errors import RecordingError

HeadWeights = Literal["mean", "max_all", "max_image"]
Rollout = Literal["sum", "product"]
Placement = Literal["none", "layer", "rollout", "end"]
CacheDtype = Literal["model", "bfloat16"]
CacheDevice = Literal["model", "cpu"]

_CHOICES = {
    "head_weights": HeadWeights,
    "rollout": Rollout,
    "regulariser": Placement,
    "cache_dtype": CacheDtype,
    "cache_device": CacheDevice,
}


@dataclass(frozen=True)
class AttentionFlow:
    """Follow attention through layers and heads. The defaults are VL-SAM's (Lin, Wang, Tang, NeurIPS 2024).

    With S[l,h] [N, N] the softmax weights of layer l and head h, one head each of H, n the sequence's tokens:

        W[l,h] = mean over queries i of max over keys j of S[l,h][i,j]
        S'[l]  = (1/H) sum_h W[l,h] S[l,h]
        A[l]   = I + S'[l] D[l]
        F[l]   = A[l] (I + F[l-1]),   F = 0 before the first layer

    D[l] is diagonal: column j is scaled by 1 - (L0 - 1) / n, where L0 is how many queries see key j. Under a causal
    mask this is j / n, counted from 1: about 1/n for the first token, which every later one sees, and 1 for the last.
    A recorded row is a row of F of the last layer.

    Attributes:
        head_weights: W: `max_all` as above; `max_image`, the maximum over image keys; `mean`, 1 for every head.
        relative: divide W by its largest value in the layer.
        rollout: `sum` as above; `product`, F[l] = A[l] F[l-1] from F = I, as in attention rollout.
        residual: r in [0, 1] of A[l] = r I + (1 - r) S'[l]; None for A[l] = I + S'[l].
        regulariser: where D stands: `layer`, on S'[l] as above; `rollout`, on F[l] after each layer; `end`, once on the
            last F, with D of the last layer; `none`.
        cache_dtype: format in which queries and keys are kept until the last layer has run: `model`, as the model
            computes them; `bfloat16`, half the bytes of float32, with weights off by about 1 %.
        cache_device: where they are kept: `model`, on their layer's device, or `cpu`.

    Notes:
        VL-SAM's text does not say where D stands and calls both the number of layers and n "L"; `layer` and n are our
        choices, as is the scale of the logits, which is the model's own. Layers that are left out, and layers without
        softmax attention over the sequence, such as linear attention, pass the flow on unchanged, F[l] = F[l-1]. DecAF
        (arXiv 2510.19592, read from its code) is `max_image`, `relative`, `product`, `residual: 0.5`, no regulariser,
        over the later half of the layers.
    """

    head_weights: HeadWeights = "max_all"
    relative: bool = False
    rollout: Rollout = "sum"
    residual: float | None = None
    regulariser: Placement = "layer"
    cache_dtype: CacheDtype = "model"
    cache_device: CacheDevice = "model"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise RecordingError(
                    f"{name}={getattr(self, name)!r} is unknown: use {', '.join(map(repr, get_args(choices)))}"
                )
        if self.residual is not None and not 0 <= self.residual <= 1:
            raise RecordingError(f"residual={self.residual:g} was given, expected a weight in [0, 1] or None")
