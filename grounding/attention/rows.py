"""Compute chosen rows of the attention matrix without the N x N matrix.

For query r of one head, with q [D], k [K, D]:

    logits[r]  = softcap(scale * k @ q[r]) + position_bias[r]
    weights[r] = softmax(logits[r] + logit_bias[r] + mask[r]) * weight_scale[r]

The softmax is in float32 over all K keys, and a learned sink where the call has one; wanted columns are kept after it.

Shape letters: B batch, H query heads, G query heads per key head, Q queries of this call, K keys of this call, R chosen
rows, C kept columns, D head width, N sequence length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, WeightScale

WORKING_BYTES = 64 << 20
"""Upper bound on the bytes of one chunk of rows while it is computed (our choice)."""

UPCAST_KEYS = 1024
"""Number of half-precision keys that are converted to float32 at a time (our choice)."""

TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference between a recorded weight and the weight of eager attention, by the model's dtype.

In half precision, eager attention rounds each logit and each weight to the model's dtype, whereas recorded rows are
computed in float32, as inside fast kernels; the table bounds the rounding of eager attention.
"""


def rows_per_chunk(heads: int, keys: int) -> int:
    """Return how many rows of `heads` x `keys` fit `WORKING_BYTES` as logits, weights and one copy; at least 1."""
    return max(1, WORKING_BYTES // (heads * keys * 4 * 3))


def attention_rows(call: AttentionCall, element: int, rows: Tensor) -> Tensor:
    """Compute chosen rows of the attention matrix of one batch element.

    Args:
        call: the attention call.
        element: index into the batch.
        rows: [R] int64, indices into this call's queries, on the call's device.

    Returns:
        [H, R, K] float32 weights, edits included; every row sums to 1 over all K keys unless an edit scales weights or
        a learned sink takes a share.
    """
    logits = logit_rows(call, rows, element)[0]  # [H, R, K]
    edit = combined_edit(call, rows)
    if edit.logit_bias is not None:
        logits = logits + edit.logit_bias[min(element, edit.logit_bias.shape[0] - 1)]
    mask = mask_rows(call, rows, element)
    weights = _softmax(call, logits if mask is None else logits + mask[0])
    if edit.weight_scale is None:
        return weights
    heads, scale = edit.weight_scale
    return weights.index_copy(0, heads, weights.index_select(0, heads) * scale[min(element, scale.shape[0] - 1)])


def combined_edit(call: AttentionCall, rows: Tensor) -> AttentionEdit:
    """Combine all edits of a call, for chosen rows of every batch element.

    Each edit is computed on the call with all earlier edits; rows before an edit's start are not edited by it.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.

    Returns:
        The sum of all biases and the product of all scales.
    """
    bias: Tensor | None = None
    scale: WeightScale | None = None
    for index, row_edit in enumerate(call.edits):
        edit = row_edit.edit
        if isinstance(edit, AttentionEdit):
            edit = edit.first_keys(call.key_count)
        else:
            edit = edit(replace(call, edits=call.edits[:index]), rows)
        before = (rows < row_edit.start)[:, None] if row_edit.start > 0 else None  # [R, 1]
        if edit.logit_bias is not None:
            own = edit.logit_bias if before is None else edit.logit_bias.masked_fill(before, 0.0)
            bias = own if bias is None else bias + own
        if edit.weight_scale is not None:
            heads, own = edit.weight_scale
            own = own if before is None else own.masked_fill(before, 1.0)
            scale = (heads, own) if scale is None else _product(scale, (heads, own))
    return AttentionEdit(bias, scale)


def _product(one: WeightScale, other: WeightScale) -> WeightScale:
    heads = torch.cat([one[0], other[0]]).unique()
    parts = []
    for own, scale in (one, other):
        batch, _, rows, keys = torch.broadcast_shapes(one[1][:, :1].shape, other[1][:, :1].shape)
        whole = torch.ones(batch, len(heads), rows, keys, device=scale.device)
        at = torch.searchsorted(heads, own)
        parts.append(whole.index_copy(1, at, scale.expand(batch, len(own), rows, keys)))
    return heads, parts[0] * parts[1]


def weight_rows(call: AttentionCall, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute chosen rows of the attention matrix of every batch element, for all heads, without weight scales.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.
        bias: [B or 1, H or 1, R or 1, K] added to the logits; the logit bias of the call's own edits where None.

    Returns:
        [B, H, R, K] float32; every row sums to 1, or to less with a learned sink.
    """
    logits = logit_rows(call, rows)
    if bias is None and call.edits:
        bias = combined_edit(call, rows).logit_bias
    for part in (bias, mask_rows(call, rows)):
        logits = logits if part is None else logits + part
    return _softmax(call, logits)


def _softmax(call: AttentionCall, logits: Tensor) -> Tensor:
    """Weights of all keys from masked logits [..., H, R, K]; a learned sink takes its share and is left out."""
    if call.sink_logits is None:
        return torch.softmax(logits, dim=-1)
    sink = call.sink_logits.float()[:, None, None].expand(*logits.shape[:-1], 1)
    return torch.softmax(torch.cat([logits, sink], dim=-1), dim=-1)[..., :-1]


def logit_rows(call: AttentionCall, rows: Tensor, element: int | None = None) -> Tensor:
    """Compute chosen rows of the logits: scaled, soft-capped and with position bias, without mask and edits.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.
        element: one batch element, or None for all.

    Returns:
        [B, H, R, K] float32, B = 1 where an element is given.
    """
    batch = slice(None) if element is None else slice(element, element + 1)
    logits = _logits(call.query[batch].index_select(2, rows), call.key[batch]) * call.scale
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if call.bias is not None:
        logits = logits + pick_rows(call.bias, element, rows, call.key_count).float()
    return logits


def mask_rows(call: AttentionCall, rows: Tensor, element: int | None = None) -> Tensor | None:
    """Compute chosen rows of an additive mask that combines mask, causality, padding and window.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.
        element: one batch element, or None for all.

    Returns:
        [B or 1, H or 1, R or 1, K] float32, or None where every key is visible.
    """
    lowest = torch.finfo(torch.float32).min
    allowed = _allowed(call, element, rows)
    additive = call.mask is not None and call.mask.ndim == 4 and call.mask.dtype != torch.bool
    mask = pick_rows(call.mask, element, rows, call.key_count).float() if additive and call.mask is not None else None
    if allowed is None:
        return mask
    cut = torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, lowest)
    return cut if mask is None else cut + mask


def iter_rows(call: AttentionCall, element: int, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Compute `attention_rows` in chunks of bounded memory.

    Args:
        call: the attention call.
        element: index into the batch.
        rows: [R] int64, indices into this call's queries.

    Yields:
        (slice of `rows`, [H, r, K] float32 weights).
    """
    size = rows_per_chunk(call.head_count, call.key_count)
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        yield part, attention_rows(call, element, rows[part])


def real_queries(call: AttentionCall, element: int) -> Tensor | None:
    """Find the queries of one batch element that are tokens and not padding.

    The pass's own mask decides where it is known. Otherwise the diagonal of the call's mask does, in any form: a token
    attends to itself, and padding is masked as a key for every query including its own. Sparse attention may leave the
    diagonal out.

    Args:
        call: the attention call.
        element: index into the batch.

    Returns:
        [Q] bool; None where the call has no mask, so that every query is a token.
    """
    if call.real is not None:
        return call.real[min(element, len(call.real) - 1)]
    if call.mask is None:
        return None
    own = torch.arange(call.query_count, device=call.mask.device) + (call.query_offset - call.key_offset)
    if call.mask.ndim == 2:
        padding = call.mask[element].bool()
        return padding[own.clamp(max=len(padding) - 1)] & (own < len(padding))
    mask = call.mask[min(element, call.mask.shape[0] - 1), 0]  # [Q or 1, K]
    queries = torch.arange(call.query_count, device=mask.device).clamp(max=mask.shape[0] - 1)
    diagonal = mask[queries, own.clamp(max=mask.shape[1] - 1)]
    return diagonal if diagonal.dtype == torch.bool else diagonal > torch.finfo(diagonal.dtype).min / 2


def keep_columns(weights: Tensor, columns: Tensor | None, key_offset: int, length: int) -> Tensor:
    """Select columns of full rows by sequence position; positions outside this call's keys have weight 0.

    Args:
        weights: [H, R, K].
        columns: [C] int64 sequence positions; None selects 0 to length - 1.
        key_offset: sequence position of key 0.
        length: number of sequence positions read so far, this call's included.

    Returns:
        [H, R, C], with C = length where `columns` is None.
    """
    if columns is None:
        present = weights[..., : length - key_offset]
        return torch.nn.functional.pad(present, (key_offset, 0)) if key_offset else present
    local = columns - key_offset
    inside = (local >= 0) & (local < weights.shape[-1])
    picked = weights.index_select(-1, local.clamp(0, weights.shape[-1] - 1))
    return picked * inside.to(picked.dtype)


def row_maxima(call: AttentionCall, element: int, columns: dict[str, Tensor | None]) -> tuple[dict[str, Tensor], int]:
    """Sum the largest weight of every unpadded query, in query chunks.

    Args:
        call: the attention call.
        element: index into the batch.
        columns: name → [C] sequence positions over which the maximum is taken, None for all keys.

    Returns:
        (name → [H] float32 sums, number of queries in the sum).
    """
    real = real_queries(call, element)
    device = call.query.device
    rows = torch.arange(call.query_count, device=device) if real is None else real.nonzero()[:, 0].to(device)
    sums = {name: torch.zeros(call.head_count, device=device) for name in columns}
    length = call.key_offset + call.key_count
    for _, weights in iter_rows(call, element, rows):
        for name, chosen in columns.items():
            kept = weights if chosen is None else keep_columns(weights, chosen, call.key_offset, length)
            sums[name] += kept.amax(dim=-1).sum(dim=-1)
    return sums, len(rows)


def as_index(positions: Sequence[int], device: torch.device) -> Tensor:
    """Return positions as an int64 index on `device`."""
    return torch.tensor(list(positions), dtype=torch.int64, device=device)


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """Multiply [B, H, R, D] by [B, H/G, K, D] to [B, H, R, K] float32, without repeating shared keys."""
    batch, heads, count, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, width)  # [B, H/G, G*R, D]
    if key.dtype == torch.float32 and grouped.dtype == torch.float32:
        logits = torch.matmul(grouped, key.transpose(-1, -2))
    else:
        grouped = grouped.float()
        logits = torch.empty(*grouped.shape[:3], key.shape[2], device=key.device)
        for start in range(0, key.shape[2], UPCAST_KEYS):
            part = slice(start, start + UPCAST_KEYS)
            logits[..., part] = torch.matmul(grouped, key[:, :, part].float().transpose(-1, -2))
    return logits.view(batch, heads, count, key.shape[2])


def write_logits(out: Tensor, query: Tensor, key: Tensor, scale: float) -> None:
    """Write the scaled logits of R queries per sequence, without repeating shared keys.

    Args:
        out: [B, H, K] or [B, H, R, K] float32, contiguous but for the last axis, overwritten.
        query: [B, H, R, D].
        key: [B, H/G, K, D].
        scale: factor on q k^T.
    """
    shared = key.shape[0] * key.shape[1]
    grouped, keys = query.reshape(shared, -1, query.shape[-1]), key.reshape(shared, *key.shape[2:]).transpose(1, 2)
    target = out.view(shared, -1, out.shape[-1])  # [B*H/G, G, K]
    if key.dtype == query.dtype == torch.float32:
        torch.baddbmm(target, grouped, keys, beta=0, alpha=scale, out=target)
    elif key.dtype == query.dtype and _accumulates_in_float32(key.device.type, key.dtype):
        torch.baddbmm(target, grouped, keys, out_dtype=torch.float32, beta=0, alpha=scale, out=target)
    else:
        grouped = grouped.float()
        for start in range(0, keys.shape[-1], UPCAST_KEYS):
            part = slice(start, start + UPCAST_KEYS)
            target[..., part] = torch.bmm(grouped, keys[..., part].float())
        target *= scale


def softmax_(logits: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute the softmax over the last axis; the logits are overwritten.

    On a CPU, weights below exp(-80) of the largest become 0: a processor is ten times slower with numbers so small that
    they are not normalised.

    Args:
        logits: [..., K] float32.
        out: receives the result.
    """
    if logits.device.type == "cpu":
        logits.sub_(logits.amax(dim=-1, keepdim=True))
        torch.threshold_(logits, -80.0, -torch.inf)
    return torch.softmax(logits, dim=-1, out=out)


@cache
def _accumulates_in_float32(device: str, dtype: torch.dtype) -> bool:
    """Whether torch multiplies half-precision matrices to a float32 result here: on CUDA and XPU, since torch 2.8."""
    factor = torch.ones(1, 1, 1, dtype=dtype, device=device)
    target = torch.empty(1, 1, 1, device=device)
    try:
        torch.baddbmm(target, factor, factor, out_dtype=torch.float32, beta=0, alpha=1.0, out=target)
    except (TypeError, RuntimeError):  # an unknown argument, or a backend without it
        return False
    return True


def pick_rows(mask: Tensor, element: int | None, rows: Tensor, keys: int) -> Tensor:
    """Select chosen rows of a mask or bias.

    Args:
        mask: [B or 1, H or 1, Q or 1, >= K].
        element: one batch element, or None for all.
        rows: [R] int64, indices into this call's queries.
        keys: K.

    Returns:
        [B or 1, H or 1, R or 1, K]; B = 1 where an element is given.
    """
    if element is not None:
        element = min(element, mask.shape[0] - 1)
        mask = mask[element : element + 1]
    return (mask if mask.shape[2] == 1 else mask.index_select(2, rows.to(mask.device)))[..., :keys]


def _allowed(call: AttentionCall, element: int | None, rows: Tensor) -> Tensor | None:
    """Compute [B or 1, H or 1, R or 1, K] bool from bool mask, causality, padding and window; None without any."""
    allowed: Tensor | None = None
    if call.causal or call.window is not None:
        query = (rows + call.query_offset)[:, None]  # [R, 1]
        key = (torch.arange(call.key_count, device=rows.device) + call.key_offset)[None, :]  # [1, K]
        allowed = key <= query if call.causal else torch.ones_like(key <= query)
        if call.window is not None:
            allowed = allowed & (query - key < call.window)
        allowed = allowed[None, None]
    if call.mask is None:
        return allowed
    if call.mask.ndim == 2:
        padding = call.mask if element is None else call.mask[element : element + 1]
        padding = padding.bool().to(rows.device)[:, None, None]
        padding = torch.nn.functional.pad(padding, (0, call.key_count - padding.shape[-1]))
        return padding if allowed is None else allowed & padding
    if call.mask.dtype == torch.bool:
        chosen = pick_rows(call.mask, element, rows, call.key_count).to(rows.device)
        return chosen if allowed is None else allowed & chosen
    return allowed
