"""Run an edited attention call with the model's own kernel.

The output of an edited row r of one head, with the edit's `logit_bias` b and `weight_scale` g:

    o[r] = (g * softmax(scale * q[r] @ k.T + mask[r] + b)) @ v

Unedited rows are computed by the kernel as without an edit and stay bit-identical. Edited rows are computed in chunks
of bounded memory, with b added to the mask [B, H, r, K]; a decode step has one row and needs one call. Weight scales
are applied outside the kernel, for the edited heads only. A bias that is known before the call costs a decode step no
more than a slice.

Notes:
    A bias of rank one could instead be carried by one additional column of queries and keys, without a mask; this
    copies every cached key at each step and is not done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.call import AttentionCall, AttentionEdit, WeightScale
from grounding.attention.rows import combined_edit, mask_rows, pick_rows, rows_per_chunk, weight_rows

Kernel = Callable[..., Any]


def run_edited(
    kernel: Kernel, module: nn.Module, call: AttentionCall, mask: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Tensor, None]:
    """Run a call with its edits.

    Args:
        kernel: the model's kernel; it must take an additive mask per head.
        module: the attention module.
        call: the call, with at least one edit.
        mask: the mask that the model passed.
        args: the further positional arguments that the model passed.
        options: the keyword arguments that the model passed.

    Returns:
        (output [B, Q, H, Dv], None), the return value of transformers' kernels.
    """
    # The additive mask built below includes both, so the kernel must not apply them again.
    included = {name: value for name, value in options.items() if name not in ("position_bias", "sliding_window")}
    token = _token_mask(call)
    if token is not None:
        return kernel(module, call.query, call.key, call.value, token, *args, **included)[0], None
    start = min(edit.start for edit in call.edits)
    parts = []
    if start > 0:
        parts.append(kernel(module, call.query, call.key, call.value, mask, *args, **options)[0][:, :start])
    size = rows_per_chunk(call.query.shape[0] * call.head_count, call.key_count)
    for first in range(start, call.query_count, size):
        part = slice(first, min(first + size, call.query_count))
        parts.append(_run_part(kernel, module, call, part, args, included))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), None


def _token_mask(call: AttentionCall) -> Tensor | None:
    """Return the additive mask [B, H, 1, K] of one token whose edit is one fixed bias, the usual decode step.

    Nothing but the mask of padding is computed per layer; None where the general way is needed.
    """
    fixed = call.edits[0].fixed_bias if len(call.edits) == 1 and call.query_count == 1 else None
    ahead = call.causal and call.key_offset + call.key_count > call.query_offset + 1
    if fixed is None or fixed.ndim != 4 or call.edits[0].start > 0 or ahead:
        return None
    if call.window is not None or call.bias is not None:
        return None
    edit, dtype, keys = call.edits[0].edit, call.query.dtype, call.key_count
    assert isinstance(edit, AttentionEdit)  # as it has a fixed bias
    additive = edit.additive(dtype)
    assert additive is not None
    bias = additive[..., :keys]
    if call.mask is not None:
        if call.mask.ndim != 4 or call.mask.dtype != torch.bool:
            return None
        bias = torch.where(call.mask[..., :keys], bias, torch.finfo(dtype).min)
    return bias.expand(call.query.shape[0], call.head_count, 1, keys)


def _run_part(
    kernel: Kernel, module: nn.Module, call: AttentionCall, part: slice, args: tuple[Any, ...], options: dict[str, Any]
) -> Tensor:
    rows = torch.arange(part.start, part.stop, device=call.query.device)
    edit = combined_edit(call, rows)
    additive = mask_rows(call, rows)
    position = None if call.bias is None else pick_rows(call.bias, None, rows, call.key_count).float()
    for extra in (edit.logit_bias, position):
        if extra is not None:
            additive = extra if additive is None else additive + extra
    if additive is not None:
        full = (call.query.shape[0], call.head_count, len(rows), call.key_count)
        # With -inf, a padding row without any visible key would be NaN.
        lowest = torch.finfo(call.query.dtype).min
        additive = additive.clamp(min=lowest).to(call.query.dtype).expand(full)
    output = kernel(module, call.query[:, :, part], call.key, call.value, additive, *args, **options)[0]
    if edit.weight_scale is None:
        return output
    return _scaled(call, rows, edit.logit_bias, edit.weight_scale, output)


def _scaled(call: AttentionCall, rows: Tensor, bias: Tensor | None, scale: WeightScale, output: Tensor) -> Tensor:
    """Add the effect of scaled weights to the kernel's output [B, R, H, Dv], for the scaled heads only."""
    heads, factor = scale
    few = call.heads(heads)
    own = bias if bias is None or bias.shape[1] == 1 else bias.index_select(1, heads)
    weights = weight_rows(few, rows, own)  # [B, H', R, K]
    difference = torch.matmul((factor - 1.0) * weights, few.value.float()).transpose(1, 2)  # [B, R, H', Dv]
    edited = output.index_select(2, heads).float() + difference
    return output.index_copy(2, heads, edited.to(output.dtype))
