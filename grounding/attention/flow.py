"""Compute rows of the attention flow through layers from queries and keys, without the N x N matrix.

`grounding.attention_flow.AttentionFlow` has the formula. A row t of F follows from the last layer to the first, because
only a row is ever multiplied from the left: with u = e_t behind the last layer and u <- u A[l],

    F[t] = the sum of u after every layer ("sum"), or u after the first one ("product").

In u S'[l] = (1/H) sum_h W[l,h] (u S[l,h]) the head weight is a scalar, so a layer's weights and its product are read
off the same softmax rows, which are computed once, in blocks of queries by visible keys. The cost is that of the
softmax of every layer, O(L H N^2 (D + T)); the memory is that of some vectors of length N beside the queries and keys.

Shape letters: B batch, H query heads, G query heads per key head, Q queries of a call, K keys of a call, R queries of a
block, T rows of F, N sequence length, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.rows import mask_rows, pick_rows, real_queries
from grounding.attention_flow import AttentionFlow

CORE_BYTES = 2 << 20
"""Size of a block's weights per CPU thread, so that they stay in its core's cache (our choice)."""

BLOCK_BYTES = 64 << 20
"""Largest size of a block's weights, which an accelerator uses because few large kernels are faster (our choice)."""

KEPT_MASK_BYTES = 256 << 10
"""Largest size of a block's mask that is kept for all layers and heads, that of a causal diagonal (our choice)."""

MOST_ROWS = 256
"""Most queries of a block: in a causal block up to half of its last R x R weights are wasted (our choice)."""


def flow_rows(
    layers: Iterable[Sequence[AttentionCall]],
    rows: Sequence[Tensor],
    length: int,
    rule: AttentionFlow,
    image: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Compute rows of the attention flow F of every batch element.

    Args:
        layers: per layer, from the last to the first, the calls that read the sequence: one, or the pieces of a prompt
            and the decode steps, in order, each with `query_offset` and `key_offset`. Read once, one layer at a time.
            Edits and values are not read.
        rows: per element [T] int64 sequence positions.
        length: N, positions of the sequence, padding included.
        rule: how attention is joined.
        image: per element [C] int64 positions of the image, for `head_weights="max_image"`.

    Returns:
        Per element [T, N] float32 on the first layer's device.
    """
    flows = [_Flow(own, length, rule, None if image is None else image[b]) for b, own in enumerate(rows)]
    plans: dict[tuple[object, ...], _Plan] = {}
    masks: dict[int, Tensor | None] = {}  # kept, so that no other mask takes over the id of one
    for calls in layers:
        masks.update((id(call.mask), call.mask) for call in calls)
        for element, flow in enumerate(flows):
            own = []
            for call in calls:
                shape = (call.query_offset, call.query_count, call.key_offset, call.key_count)
                size = _rows_of_block(call)
                known = (element, id(call.mask), call.causal, call.window, size, call.query.device, *shape)
                if known not in plans:
                    plans[known] = _Plan.of(call, element, size)
                own.append((call, plans[known]))
            flow.step(own, element)
    return [flow.rows() for flow in flows]


@dataclass(frozen=True)
class _Block:
    """Some queries of a call and the keys that they see.

    Attributes:
        rows: queries of the call.
        keys: keys of the call from the first to the last that any of the queries sees.
        masked: the part of `keys`, counted from its start, outside which every query sees every key; None where all do.
        mask: [H or 1, R, masked] additive; None where it is too large to be kept.
    """

    rows: slice
    keys: slice
    masked: slice | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class _Plan:
    """The blocks of one call for one batch element; calls of several layers share one.

    Attributes:
        blocks: those of queries that see any key.
        real: [Q] bool, queries that are tokens; None where all are.
        seen: [K] number of tokens that see each key.
        tokens: number of queries that are tokens.
    """

    blocks: tuple[_Block, ...]
    real: Tensor | None
    seen: Tensor
    tokens: int

    @classmethod
    def of(cls, call: AttentionCall, element: int, size: int) -> _Plan:
        device, blocks = call.query.device, []
        real = real_queries(call, element)
        real = None if real is None else real.to(device)
        seen = torch.zeros(call.key_count, device=device)
        for start in range(0, call.query_count, size):
            rows = slice(start, min(start + size, call.query_count))
            tokens = None if real is None else real[rows]
            count = size_of(rows) if tokens is None else int(tokens.sum())
            if count == 0:
                continue
            mask = mask_rows(call, torch.arange(rows.start, rows.stop, device=device), element)
            if mask is None:
                seen += count
                blocks.append(_Block(rows, slice(0, call.key_count)))
                continue
            mask = mask[0].expand(-1, size_of(rows), -1)  # [H or 1, R, K]
            visible = mask > torch.finfo(mask.dtype).min / 2
            own = visible.any(dim=0)  # [R, K]
            seen += (own if tokens is None else own & tokens[:, None]).sum(dim=0)
            first, last = _span(own.any(dim=0))
            mask = mask[..., first:last]
            changed = (mask != 0).any(dim=(0, 1))
            if not bool(changed.any()):
                blocks.append(_Block(rows, slice(first, last)))
                continue
            masked = slice(*_span(changed))
            mask = mask[..., masked]
            kept = mask.contiguous() if mask.numel() * 4 <= KEPT_MASK_BYTES else None
            blocks.append(_Block(rows, slice(first, last), masked, kept))
        return cls(tuple(blocks), real, seen, call.query_count if real is None else int(real.sum()))


def size_of(part: slice) -> int:
    """Return how many entries a slice with a start and a stop has."""
    return int(part.stop - part.start)


def _span(chosen: Tensor) -> tuple[int, int]:
    """First true entry of [K] and the one behind the last; (0, 0) without any."""
    found = chosen.nonzero()[:, 0]
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def _index(call: AttentionCall, block: _Block) -> Tensor:
    return torch.arange(block.rows.start, block.rows.stop, device=call.query.device)


def _mask(call: AttentionCall, block: _Block, element: int) -> Tensor:
    """Compute the additive mask [H or 1, R, masked] of a block that does not keep it."""
    assert block.masked is not None
    hull = slice(block.keys.start + block.masked.start, block.keys.start + block.masked.stop)
    mask = mask_rows(call.keys(hull), _index(call, block), element)
    assert mask is not None, "a block is masked by its call's mask, window or causality"
    return mask[0]


def _softmax_(logits: Tensor) -> Tensor:
    """Compute the softmax over the last axis; a CPU overwrites the logits, so that a block takes half of its cache."""
    return torch.softmax(logits, dim=-1, out=logits if logits.device.type == "cpu" else None)


def _heads_at_once(call: AttentionCall) -> int:
    """Return how many key heads a block has: one a thread on a CPU, else all."""
    shared = call.key.shape[1]
    return min(shared, torch.get_num_threads()) if call.query.device.type == "cpu" else shared


def _rows_of_block(call: AttentionCall) -> int:
    size = min(CORE_BYTES * torch.get_num_threads(), BLOCK_BYTES) if call.query.device.type == "cpu" else BLOCK_BYTES
    heads = _heads_at_once(call) * (call.head_count // call.key.shape[1])
    return max(1, min(size // (heads * call.key_count * 4), MOST_ROWS, call.query_count))


class _Flow:
    """The rows of one batch element on their way from the last layer to the first."""

    def __init__(self, rows: Tensor, length: int, rule: AttentionFlow, image: Tensor | None) -> None:
        self._rule = rule
        self._image = image
        self._rows = torch.zeros(len(rows), length, device=rows.device)  # u
        self._rows[torch.arange(len(rows), device=rows.device), rows] = 1
        self._sum = torch.zeros_like(self._rows)
        self._scale: Tensor | None = None  # [N] product of all D that stand on F
        self._buffers: dict[torch.device, Tensor] = {}

    def step(self, calls: Sequence[tuple[AttentionCall, _Plan]], element: int) -> None:
        """Go through one layer, given by its calls."""
        rule, device = self._rule, calls[0][0].query.device
        self._rows, self._sum = self._rows.to(device), self._sum.to(device)
        joined = self._joined(calls, element)
        if rule.regulariser != "none":
            factors = self._factors(calls)
            if rule.regulariser == "layer":
                joined *= factors
            elif self._scale is None:
                self._scale = factors
            elif rule.regulariser == "rollout":
                self._scale = self._scale.to(device) * factors
        kept = 1.0 if rule.residual is None else rule.residual
        self._rows = kept * self._rows + (1.0 if rule.residual is None else 1 - rule.residual) * joined
        if rule.rollout == "sum":
            within = self._scale if rule.regulariser == "rollout" else None
            self._sum += self._rows if within is None else self._rows * within

    def rows(self) -> Tensor:
        """Return [T, N] after the first layer."""
        flow = self._sum if self._rule.rollout == "sum" else self._rows
        if self._scale is None or (self._rule.rollout == "sum" and self._rule.regulariser == "rollout"):
            return flow
        return flow * self._scale.to(flow.device)

    def _factors(self, calls: Sequence[tuple[AttentionCall, _Plan]]) -> Tensor:
        """Return D [N]."""
        seen = torch.zeros(self._rows.shape[1], device=self._rows.device)
        for call, plan in calls:
            seen[call.key_offset : call.key_offset + call.key_count] += plan.seen
        tokens = sum(plan.tokens for _, plan in calls)
        return 1 - (seen - 1) / max(tokens, 1)

    def _joined(self, calls: Sequence[tuple[AttentionCall, _Plan]], element: int) -> Tensor:
        """Return u S' [T, N]."""
        first = calls[0][0]
        shared, heads = first.key.shape[1], first.head_count
        group, at_once = heads // shared, _heads_at_once(first)
        tokens = max(sum(plan.tokens for _, plan in calls), 1)
        reached = self._rows.ne(0).any(dim=0).tolist()
        total = torch.zeros_like(self._rows)
        largest = torch.zeros((), device=total.device)
        for start in range(0, shared, at_once):
            part = slice(start, min(start + at_once, shared))
            count = size_of(part) * group
            products = total.new_zeros(count, *total.shape)  # u S of each head
            maxima = total.new_zeros(count)
            for call, plan in calls:
                self._add(call, plan, element, part, reached, products, maxima)
            weights = maxima / tokens
            if self._rule.head_weights == "mean":
                weights = torch.ones_like(weights)
            total += torch.einsum("h,htn->tn", weights, products)
            largest = torch.maximum(largest, weights.max())
        if self._rule.relative:
            total = torch.where(largest > 0, total / largest, torch.zeros_like(total))
        return total / heads

    def _add(
        self,
        call: AttentionCall,
        plan: _Plan,
        element: int,
        part: slice,
        reached: list[bool],
        products: Tensor,
        maxima: Tensor,
    ) -> None:
        """Add one call's products [heads, T, N] and sums of maxima [heads] of the key heads `part`."""
        mean = self._rule.head_weights == "mean"
        key = call.key[element, part].float()  # [heads / G, K, D]
        for block in plan.blocks:
            at = slice(call.query_offset + block.rows.start, call.query_offset + block.rows.stop)
            needed = any(reached[at])
            if mean and not needed:
                continue
            weights = self._weights(call, block, element, part, key)  # [heads, R, keys]
            if not mean:
                strongest = self._maxima(weights, call, block)
                if plan.real is not None:
                    strongest = strongest * plan.real[block.rows]
                maxima += strongest.sum(dim=-1)
            if needed:
                columns = slice(call.key_offset + block.keys.start, call.key_offset + block.keys.stop)
                products[..., columns] += torch.matmul(self._rows[:, at], weights)

    def _maxima(self, weights: Tensor, call: AttentionCall, block: _Block) -> Tensor:
        """Return the largest weight [heads, R] of every row, over all keys or over image keys."""
        if self._rule.head_weights == "max_all":
            return weights.amax(dim=-1)
        assert self._image is not None, "max_image needs the image's positions"
        local = self._image.to(weights.device) - (call.key_offset + block.keys.start)
        local = local[(local >= 0) & (local < size_of(block.keys))]
        return weights.index_select(-1, local).amax(dim=-1) if len(local) else weights.new_zeros(weights.shape[:2])

    def _weights(self, call: AttentionCall, block: _Block, element: int, part: slice, key: Tensor) -> Tensor:
        """Return the softmax [heads, R, keys] of a block, in a buffer that the next one overwrites."""
        group = call.head_count // call.key.shape[1]
        heads = slice(part.start * group, part.stop * group)
        query = call.query[element, heads, block.rows].float()  # [heads, R, D]
        count, rows, width = query.shape
        keys = size_of(block.keys)
        logits = self._space(call, count)[: count * rows * keys].view(count, rows, keys)
        grouped = logits.view(size_of(part), group * rows, keys)
        shared = key[:, block.keys].transpose(1, 2)
        torch.baddbmm(grouped, query.reshape(size_of(part), -1, width), shared, beta=0, alpha=call.scale, out=grouped)
        if call.softcap is not None:
            logits.div_(call.softcap).tanh_().mul_(call.softcap)
        if call.bias is not None:
            bias = pick_rows(call.bias, element, _index(call, block), call.key_count)[0, :, :, block.keys].float()
            logits += bias if len(bias) == 1 else bias[heads]
        if block.masked is not None:
            mask = block.mask if block.mask is not None else _mask(call, block, element)
            logits[..., block.masked] += mask if len(mask) == 1 else mask[heads]
        return _softmax_(logits)

    def _space(self, call: AttentionCall, heads: int) -> Tensor:
        """Return a flat buffer that holds a block of a call."""
        device, size = call.query.device, heads * _rows_of_block(call) * call.key_count
        known = self._buffers.get(device)
        if known is None or known.numel() < size:
            known = self._buffers[device] = torch.empty(size, device=device)
        return known
