"""Check that recorded rows are the weights of the kernel: multiplied by the values, they must give its output.

A row of weights w over values v gives the output o = sum_k w_k v_k. Weights off by independent relative errors of size
e move it by about e * noise, with noise^2 = sum_k w_k^2 |v_k - o|^2: the row's own spread. So the difference between
rows @ values and the kernel's output, divided by this noise, estimates how far the weights are off, whatever the values
are. Rounding is allowed on top: of the output, of weights before they are multiplied by the values, and of logits, as
in eager attention in half precision.

Shape letters as in `grounding.attention.rows`; Dv value width.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.rows import UPCAST_KEYS, logit_rows
from grounding.errors import RecordingError
from grounding.numerics import overflow

WEIGHT_TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-2, torch.bfloat16: 3e-2, torch.float16: 1.5e-2}
"""Largest relative error of a row's weights beyond rounding, by the model's dtype (our choice).

Kernels of torch and eager attention stay below 1e-3 in every dtype; float32 leaves room for TF32 on a GPU. A kernel of
half the temperature is off by 0.2 and more where logits differ by about 0.3.
"""

FLOAT32 = torch.finfo(torch.float32).eps
TINY = torch.finfo(torch.float32).tiny


def checked(count: int) -> list[int]:
    """Return which of `count` rows are checked: the first, the middle and the last."""
    return sorted({0, count // 2, count - 1}) if count else []


def output_error(call: AttentionCall, element: int, rows: Tensor, weights: Tensor, output: Tensor) -> Tensor:
    """Compare recorded rows, multiplied by the values, with the kernel's output at those queries.

    Args:
        call: the attention call.
        element: index into the batch.
        rows: [R] int64, indices into this call's queries.
        weights: [H, R, K] the recorded rows over all keys.
        output: [B, Q, H, Dv] the kernel's output.

    Returns:
        Scalar tensor: the largest relative error of a row's weights beyond rounding; NaN or infinite where the kernel's
        output or the rows are.
    """
    value = call.value[element]  # [H/G, K, Dv]
    keys = weights.shape[-1]
    grouped = weights.reshape(value.shape[0], -1, keys)  # [H/G, G*R, K]
    squares = grouped.square()
    sums = torch.zeros(value.shape[0], 2 * grouped.shape[1], value.shape[-1], device=value.device)
    energy = torch.zeros(*grouped.shape[:2], 1, device=value.device)
    both = torch.cat([grouped, squares], dim=1)  # one product reads the values once
    for start in range(0, keys, UPCAST_KEYS):
        part = slice(start, start + UPCAST_KEYS)
        own = value[:, part].float()
        sums += torch.matmul(both[..., part], own)
        energy += torch.matmul(squares[..., part], torch.linalg.vector_norm(own, dim=-1, keepdim=True).square())
    expected, squared = sums.chunk(2, dim=1)
    actual = output[element].index_select(0, rows).transpose(0, 1).reshape(expected.shape).float()
    concentration = squares.sum(-1, keepdim=True)
    noise = (
        energy
        - 2 * (squared * expected).sum(-1, keepdim=True)
        + expected.square().sum(-1, keepdim=True) * concentration
    )
    # The sums cancel where one key has all weight; their own rounding is the least noise that can be told.
    noise = torch.maximum(noise, FLOAT32 * energy).clamp(min=TINY).sqrt()
    half = torch.finfo(call.query.dtype).eps if call.query.dtype != torch.float32 else 0.0
    rounding = (half + 16 * FLOAT32) * (expected.norm(dim=-1, keepdim=True) + energy.sqrt())
    error = ((expected - actual).norm(dim=-1, keepdim=True) - rounding).clamp(min=0) / noise
    if half:
        logits = logit_rows(call, rows, element)[0].abs()  # [H, R, K]
        error = error - half * (weights * logits).sum(-1, keepdim=True).reshape(error.shape)
    return error.max()


def refuse_unexplained(errors: Iterable[tuple[int, torch.dtype, Tensor]]) -> None:
    """Refuse rows that, multiplied by the values, do not reproduce the kernel's output.

    Args:
        errors: layer, number format and `output_error` of each check.

    Raises:
        RecordingError: an error is above `WEIGHT_TOLERANCE`.
        ModelError: the rows or the output are not finite.
    """
    for layer, dtype, error in errors:
        worst, allowed = float(error), WEIGHT_TOLERANCE.get(dtype, WEIGHT_TOLERANCE[torch.float32])
        if not isfinite(worst):
            raise overflow(f"the attention of layer {layer}", dtype)
        if worst > allowed:
            raise RecordingError(
                f"the weights recorded in layer {layer} do not explain its attention's output (off by about "
                f"{worst:.2g} of themselves, {allowed:g} allowed in {dtype}): this attention is more than a softmax "
                "over scaled, masked query-key products, and cannot be recorded"
            )
