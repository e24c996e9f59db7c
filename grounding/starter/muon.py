"""Muon (Jordan et al., 2024): orthogonalised momentum for the inner matrices of a network, in float32.

Notes:
    `torch.optim.Muon` orthogonalises in bfloat16, which more than triples the starter's training step on a processor
    without bfloat16 arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                self._step_alike(matrices, group)

    def _step_alike(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape together: a GPU runs one batched product in the time of a single one."""
        means, grads = [], [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            state = self.state[matrix]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(matrix)
            means.append(state["mean"])
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        directions = half_orthogonal(torch.stack(torch._foreach_lerp(grads, means, group["momentum"])))
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        scale = -0.2 * group["lr"] * max(matrices[0].shape) ** 0.5
        torch._foreach_add_(matrices, list(directions), alpha=scale)


def half_orthogonal(matrix: Tensor) -> Tensor:
    """Return [..., R, C] with the same singular vectors and all singular values between about 0.7 and 1.2."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
