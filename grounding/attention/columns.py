"""Compute the weights of many queries on a few keys, as maps of image cells over words need them.

With s [H, Q, K] the scaled and masked logits of a call, C the chosen keys (text tokens) and r a query (an image cell),
the weight on key c in C is, by order:

    text               softmax over C of s[h, r, :], per head
    joint              softmax over all K keys of s[h, r, :], per head
    text-of-mean       mean over heads of `joint`, divided by its sum over C
    text-of-mean-logit softmax over C of the mean over heads of s

`text` equals `joint` divided by its sum over C per head, and its rows sum to 1; the two last differ from it wherever
heads do. The first reads C alone, so it costs Q x C in place of Q x K. `joint` does too where the kernel gives its
log-sum-exp: exp(s[h, r, c] - lse[h, r]); otherwise whole rows are computed in chunks of bounded memory.

Shape letters as in `grounding.attention.rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.rows import combined_edit, iter_rows, logit_rows, mask_rows, rows_per_chunk
from grounding.errors import RecordingError

Order = Literal["text", "joint", "text-of-mean", "text-of-mean-logit"]
"""In which order heads are averaged and weights are normalised; see the module."""

LSE_TOLERANCE = 1e-2
"""Largest difference of a row's sum from 1, under a kernel's log-sum-exp, for the sum to be used (our choice)."""


def iter_columns(
    call: AttentionCall, element: int, rows: Tensor, columns: Tensor, order: Order
) -> Iterator[tuple[slice, Tensor]]:
    """Compute weights of chosen queries on chosen keys in chunks of bounded memory.

    Args:
        call: an attention call that is not causal; edits of its logits are included.
        element: index into the batch.
        rows: [R] int64, indices into this call's queries.
        columns: [C] int64, indices into this call's keys.
        order: see the module.

    Yields:
        (slice of `rows`, [H, r, C] float32 weights; H = 1 where the order averages heads).

    Raises:
        RecordingError: the call is causal or windowed, or its weights are scaled, so that keys cannot be left out.
    """
    few = only_keys(call, columns)
    if order == "text":
        yield from iter_rows(few, element, rows)
        return
    if order == "text-of-mean-logit":
        for part in _chunks(few, rows):
            yield part, torch.softmax(masked_logits(few, element, rows[part]).mean(dim=0, keepdim=True), dim=-1)
        return
    for part, weights in _joint(call, few, element, rows, columns):
        if order == "text-of-mean":
            mean = weights.mean(dim=0, keepdim=True)
            weights = mean / mean.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
        yield part, weights


def only_keys(call: AttentionCall, columns: Tensor) -> AttentionCall:
    """Return a call restricted to some keys, so that its softmax runs over them alone.

    Args:
        call: an attention call that is not causal; edits of its logits are kept.
        columns: [C] int64, indices into its keys.

    Raises:
        RecordingError: the call is causal or windowed, or an edit scales its weights (raised when rows are computed).
    """
    if call.causal or call.window is not None:
        raise RecordingError(
            "attention that is causal or windowed has no softmax over a choice of its keys; expected a transformer "
            "that attends over its whole sequence"
        )

    def cut(_: AttentionCall, rows: Tensor) -> AttentionEdit:
        edit = combined_edit(call, rows)
        if edit.weight_scale is not None:
            raise RecordingError(
                "weights that are scaled after the softmax have no softmax over a choice of keys; edit logits, or "
                "record with order='joint'"
            )
        return AttentionEdit(_columns(edit.logit_bias, columns))

    mask = call.mask
    if mask is not None and mask.ndim == 2:
        mask = torch.nn.functional.pad(mask, (0, call.key_count - mask.shape[1]))
    return replace(
        call,
        key=call.key.index_select(2, columns),
        value=call.value.index_select(2, columns),
        mask=_columns(mask, columns),
        bias=_columns(call.bias, columns),
        edits=(RowEdit(0, cut),) if call.edits else (),
        log_sum_exp=None,
    )


def _columns(table: Tensor | None, columns: Tensor) -> Tensor | None:
    """Select along the last axis; an axis of length 1 holds for all keys."""
    if table is None or table.shape[-1] == 1:
        return table
    return table.index_select(-1, columns.to(table.device))


def _joint(
    call: AttentionCall, few: AttentionCall, element: int, rows: Tensor, columns: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    if len(rows) and _is_exact(call, element, rows[:1]):
        assert call.log_sum_exp is not None
        lse = call.log_sum_exp[element]  # [H, Q]
        for part in _chunks(few, rows):
            logits = masked_logits(few, element, rows[part])
            yield part, torch.exp(logits - lse.index_select(1, rows[part])[..., None])
        return
    for part, weights in iter_rows(call, element, rows):
        yield part, weights.index_select(-1, columns)


def _is_exact(call: AttentionCall, element: int, row: Tensor) -> bool:
    """Whether the kernel's log-sum-exp is that of the logits; some kernels shift keys or count in base 2."""
    if call.log_sum_exp is None:
        return False
    own = torch.logsumexp(masked_logits(call, element, row), dim=-1)  # [H, 1]
    given = call.log_sum_exp[element].index_select(1, row)
    return bool((torch.expm1(own - given).abs() <= LSE_TOLERANCE).all())


def masked_logits(call: AttentionCall, element: int, rows: Tensor) -> Tensor:
    """Compute chosen rows of one element's logits [H, R, K] float32: scaled, with the mask and edits."""
    logits, mask = logit_rows(call, rows, element)[0], mask_rows(call, rows, element)
    bias = combined_edit(call, rows).logit_bias if call.edits else None
    if bias is not None:
        logits = logits + bias[min(element, bias.shape[0] - 1)]
    return logits if mask is None else logits + mask[0]


def _chunks(call: AttentionCall, rows: Tensor) -> Iterator[slice]:
    size = rows_per_chunk(call.head_count, call.key_count)
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))
