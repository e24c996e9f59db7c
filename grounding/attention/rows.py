"""Pure maths: chosen rows of softmax(q k^T) without the N x N matrix, and what is read off them.

Shape letters: B batch, H query heads, G query heads per key head, Q queries of this call, K keys of this call, R chosen
rows, C kept columns, D head width, N sequence length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grounding.attention.edits import RowEdit, combined_edit

WORKING_BYTES = 64 << 20
"""Upper bound in bytes of what one chunk of rows takes while it is computed (our choice)."""

UPCAST_KEYS = 1024
"""How many half-precision keys are turned into float32 at a time (our choice)."""

TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Largest difference between a recorded weight and eager attention's, by the model's dtype.

In float32 both compute the same numbers. In half precision eager rounds each logit and each weight to the model's
dtype, whereas recorded rows stay in float32 as fast kernels do inside; the table bounds eager's rounding.
"""

OUTPUT_TOLERANCE: dict[torch.dtype, float] = {torch.float32: 2e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Largest difference between rows @ values and the kernel's own output, as a share of the largest value."""


@dataclass(frozen=True)
class AttentionCall:
    """One attention call as the kernel sees it, after rotary embedding and after the cache update.

    Attributes:
        query: [B, H, Q, D].
        key: [B, H/G, K, D]; G query heads share a key head.
        value: [B, H/G, K, Dv].
        mask: what the model's mask builder made: bool [B, 1 or H, Q, K] (True attends), additive float of that shape,
            2-D [B, <=K] padding as flash kernels take (True is a token), or None.
        scale: factor on q k^T.
        causal: whether a query sees only keys at or before its own position, on top of the mask.
        window: how many keys back a query sees, itself included, where the kernel and not the mask cuts them off.
        softcap: logits are squashed to softcap * tanh(logit / softcap) where set.
        bias: additive [B or 1, H or 1, Q, K] position bias, on top of the mask.
        query_offset: sequence position of query 0.
        key_offset: sequence position of key 0; above 0 only where a sliding cache has dropped keys.
        changes: what steering does to the weights, in order; empty for a call as the model makes it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    bias: Tensor | None = None
    query_offset: int = 0
    key_offset: int = 0
    changes: tuple[RowEdit, ...] = ()

    @property
    def query_count(self) -> int:
        """Q."""
        return self.query.shape[2]

    @property
    def key_count(self) -> int:
        """K."""
        return self.key.shape[2]

    @property
    def head_count(self) -> int:
        """H."""
        return self.query.shape[1]

    def heads(self, chosen: Tensor) -> AttentionCall:
        """The same call for some query heads alone, each with a key head of its own.

        Args:
            chosen: [H'] int64 query heads.
        """
        shared = chosen // (self.query.shape[1] // self.key.shape[1])
        return replace(
            self,
            query=self.query.index_select(1, chosen),
            key=self.key.index_select(1, shared),
            value=self.value.index_select(1, shared),
            mask=_some_heads(self.mask, chosen),
            bias=_some_heads(self.bias, chosen),
            changes=(),
        )


def rows_per_chunk(heads: int, keys: int) -> int:
    """How many rows of `heads` x `keys` weights fit into `WORKING_BYTES`, counting logits, weights and one copy."""
    return max(1, WORKING_BYTES // (heads * keys * 4 * 3))


def attention_rows(call: AttentionCall, element: int, rows: Tensor) -> Tensor:
    """Chosen rows of the attention matrix of one batch element.

    Args:
        call: the attention call.
        element: index into the batch.
        rows: [R] int64, indices into this call's queries, on the call's device.

    Returns:
        [H, R, K] float32 weights, with the call's changes; every row sums to 1 over all K keys unless a change
        multiplies weights without renormalising.
    """
    logits = logit_rows(call, rows, element)[0]  # [H, R, K]
    bias, factor = combined_edit(call, rows)
    if bias is not None:
        logits = logits + bias[min(element, bias.shape[0] - 1)]
    mask = mask_rows(call, rows, element)
    weights = torch.softmax(logits if mask is None else logits + mask[0], dim=-1)
    if factor is None:
        return weights
    heads, times = factor
    return weights.index_copy(0, heads, weights.index_select(0, heads) * times[min(element, times.shape[0] - 1)])


def logit_rows(call: AttentionCall, rows: Tensor, element: int | None = None) -> Tensor:
    """Chosen rows of the logits, scaled, capped and biased as the model does it, without mask and without changes.

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
        logits = logits + _of_rows(call.bias, element, rows, call.key_count).float()
    return logits


def mask_rows(call: AttentionCall, rows: Tensor, element: int | None = None) -> Tensor | None:
    """Chosen rows of everything that cuts keys off, as numbers to add to the logits.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.
        element: one batch element, or None for all.

    Returns:
        [B or 1, H or 1, R or 1, K] float32, or None where every key is seen.
    """
    lowest = torch.finfo(torch.float32).min
    allowed = _allowed(call, element, rows)
    additive = call.mask is not None and call.mask.ndim == 4 and call.mask.dtype != torch.bool
    mask = _of_rows(call.mask, element, rows, call.key_count).float() if additive and call.mask is not None else None
    if allowed is None:
        return mask
    cut = torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, lowest)
    return cut if mask is None else cut + mask


def iter_rows(call: AttentionCall, element: int, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """`attention_rows` in chunks of bounded memory.

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
    """Which queries of one batch element are tokens and not padding.

    A token always sees itself, and padding is masked as a key for everybody, itself included, so the mask's own
    diagonal tells them apart whatever its form.

    Args:
        call: the attention call.
        element: index into the batch.

    Returns:
        [Q] bool, or None where no mask was made, so that every query is a token.
    """
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
    """Columns of full rows by sequence position; positions outside this call's keys hold weight 0.

    Args:
        weights: [H, R, K].
        columns: [C] int64 sequence positions, or None for all of 0..length-1.
        key_offset: sequence position of key 0.
        length: sequence positions seen so far, this call's included.

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
    """Sum over every unpadded query of its largest weight, in query chunks.

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


def output_error(call: AttentionCall, element: int, row: Tensor, weights: Tensor, output: Tensor) -> Tensor:
    """How far one recorded row is from explaining the kernel's own output at that query.

    Args:
        call: the attention call.
        element: index into the batch.
        row: [1] int64, index into this call's queries.
        weights: [H, 1, K] the recorded row over all keys.
        output: [B, Q, H, Dv] the kernel's output.

    Returns:
        Scalar tensor: the largest difference as a share of the largest absolute value vector entry.
    """
    value = call.value[element]  # [H/G, K, Dv]
    grouped = weights.reshape(value.shape[0], -1, weights.shape[-1])  # [H/G, G, K]
    expected = torch.zeros(*grouped.shape[:2], value.shape[-1], device=value.device)
    for start in range(0, value.shape[1], UPCAST_KEYS):
        part = slice(start, start + UPCAST_KEYS)
        expected += torch.matmul(grouped[..., part], value[:, part].float())
    actual = output[element].index_select(0, row)[0].float()  # [H, Dv]
    return (expected.reshape(actual.shape) - actual).abs().max() / value.abs().max().float().clamp(min=1e-12)


def as_index(positions: Sequence[int], device: torch.device) -> Tensor:
    """Positions as an int64 index on `device`."""
    return torch.tensor(list(positions), dtype=torch.int64, device=device)


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """[B, H, R, D] x [B, H/G, K, D] → [B, H, R, K] float32, without repeating the shared keys."""
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


def _of_rows(mask: Tensor, element: int | None, rows: Tensor, keys: int) -> Tensor:
    """[B or 1, H or 1, Q or 1, >=K] → [B or 1, H or 1, R or 1, K], one element of it where one is named."""
    if element is not None:
        element = min(element, mask.shape[0] - 1)
        mask = mask[element : element + 1]
    return (mask if mask.shape[2] == 1 else mask.index_select(2, rows.to(mask.device)))[..., :keys]


def _some_heads(mask: Tensor | None, chosen: Tensor) -> Tensor | None:
    return mask if mask is None or mask.ndim != 4 or mask.shape[1] == 1 else mask.index_select(1, chosen)


def _allowed(call: AttentionCall, element: int | None, rows: Tensor) -> Tensor | None:
    """[B or 1, H or 1, R or 1, K] bool, or None where no bool mask, causality, padding or window cuts anything off."""
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
        chosen = _of_rows(call.mask, element, rows, call.key_count).to(rows.device)
        return chosen if allowed is None else allowed & chosen
    return allowed
