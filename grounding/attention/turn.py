"""Running a steered call: the stock kernel on plain rows, the same kernel with a bias on changed ones.

Changed rows are computed a second time, in chunks of bounded memory, with the change of their logits as an additive
mask [B, H, r, K]. A decode step is one row, so it is computed once, in one call, and the mask is small. Nothing of this
depends on how heads are grouped, and plain rows keep their bits. (Widening queries and keys by one column would carry a
bias of rank one without a mask, but has to copy every cached key at each step.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.edits import combined_edit
from grounding.attention.rows import AttentionCall, logit_rows, mask_rows, rows_per_chunk

Kernel = Callable[..., Any]


def weight_rows(call: AttentionCall, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    """Chosen rows of the attention matrix of every batch element, for all heads.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.
        bias: added to the logits; where None, what the call's own changes add.

    Returns:
        [B, H, R, K] float32; every row sums to 1. Factors on weights are not in it.
    """
    logits = logit_rows(call, rows)
    if bias is None and call.changes:
        bias, _ = combined_edit(call, rows)
    for part in (bias, mask_rows(call, rows)):
        logits = logits if part is None else logits + part
    return torch.softmax(logits, dim=-1)


def run_edited(
    kernel: Kernel, module: nn.Module, call: AttentionCall, mask: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Tensor, None]:
    """Run a call with its changes.

    Args:
        kernel: the stock kernel; it must take an additive mask per head.
        module: the attention module.
        call: the call, with at least one change.
        mask: the stock call's own mask.
        args: further positional arguments of the stock call.
        options: its keyword arguments.

    Returns:
        (output [B, Q, H, Dv], None), as kernels return it.
    """
    start = min(change.start for change in call.changes)
    parts = []
    if start > 0:
        parts.append(kernel(module, call.query, call.key, call.value, mask, *args, **options)[0][:, :start])
    # The mask built here says all that these say; kernels must not apply them again.
    options = {name: value for name, value in options.items() if name not in ("position_bias", "sliding_window")}
    size = rows_per_chunk(call.query.shape[0] * call.head_count, call.key_count)
    for first in range(start, call.query_count, size):
        part = slice(first, min(first + size, call.query_count))
        parts.append(_turned_part(kernel, module, call, part, args, options))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), None


def _turned_part(
    kernel: Kernel, module: nn.Module, call: AttentionCall, part: slice, args: tuple[Any, ...], options: dict[str, Any]
) -> Tensor:
    rows = torch.arange(part.start, part.stop, device=call.query.device)
    bias, factor = combined_edit(call, rows)
    additive = mask_rows(call, rows)
    for extra in (bias, _of_rows(call.bias, rows, call.key_count)):
        if extra is not None:
            additive = extra if additive is None else additive + extra
    if additive is not None:
        full = (call.query.shape[0], call.head_count, len(rows), call.key_count)
        # -inf would make a row of padding, which sees no key at all, not a number.
        lowest = torch.finfo(call.query.dtype).min
        additive = additive.clamp(min=lowest).to(call.query.dtype).expand(full)
    output = kernel(module, call.query[:, :, part], call.key, call.value, additive, *args, **options)[0]
    return output if factor is None else _with_factor(call, rows, bias, *factor, output)


def _with_factor(
    call: AttentionCall, rows: Tensor, bias: Tensor | None, heads: Tensor, factor: Tensor, output: Tensor
) -> Tensor:
    """Add what multiplied weights bring to the kernel's output; only the heads concerned are computed."""
    few = call.heads(heads)
    own = bias if bias is None or bias.shape[1] == 1 else bias.index_select(1, heads)
    weights = weight_rows(few, rows, own)  # [B, H', R, K]
    difference = torch.matmul((factor - 1.0) * weights, few.value.float()).transpose(1, 2)  # [B, R, H', Dv]
    changed = output.index_select(2, heads).float() + difference
    return output.index_copy(2, heads, changed.to(output.dtype))


def _of_rows(bias: Tensor | None, rows: Tensor, keys: int) -> Tensor | None:
    if bias is None:
        return None
    return (bias if bias.shape[2] == 1 else bias.index_select(2, rows))[..., :keys].float()
