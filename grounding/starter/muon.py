"""Muon (Jordan et al., 2024): orthogonalised momentum for the inner matrices of a network, in float32.

Notes:
    `torch.optim.Muon` orthogonalises in bfloat16, which more than triples the starter's training step on a processor
    without bfloat16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration in the reference implementation
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Step along the semi-orthogonal matrix nearest to the Nesterov momentum.

    The step is scaled so that its entries are about as large as those of AdamW at the same learning rate (Liu et al.,
    2025, "Muon is Scalable for LLM Training", section 2.2).

    Args:
        params: matrices [rows, columns].
        lr: learning rate.
        momentum: decay of the running mean per step.
        weight_decay: decoupled weight decay, as in AdamW.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters from their gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(matrix)
                mean = state["mean"].lerp_(matrix.grad, 1 - group["momentum"])
                direction = half_orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def half_orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix with the same singular vectors and all singular values between about 0.7 and 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
