"""Compute the rows of one generated token: logits layer by layer, everything else once for many layers.

Per layer only scale * q k^T is computed, right after the kernel has read the same keys. Mask, softmax, chosen heads and
columns, and means run once for all layers that fit `WORKING_BYTES`, so that their cost does not grow with the layers.

Shape letters as in `grounding.attention.rows`; l layers of one batch of rows, W columns: K and the dropped keys before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.request import RowRequest
from grounding.attention.rows import WORKING_BYTES, as_index, combined_edit, mask_rows, pick_rows, write_logits

Keep = Callable[[tuple[int, ...], int, Tensor], None]
"""Receives the layers, the batch element and their rows [l, H, 1, C] on the model's device; reduced axes are 1."""


class TokenRows:
    """Keep the row of a one-token pass for every recorded layer.

    Args:
        request: what to record.
        layers: number of recorded layers.
        keep: receives finished rows; a mean over layers arrives as l = 1, each layer weighted by 1 over `layers`.
    """

    def __init__(self, request: RowRequest, layers: int, keep: Keep) -> None:
        self._request = request
        self._layers = layers
        self._keep = keep
        self._length = 0
        self._open: dict[torch.device, _Logits] = {}
        self._indices: dict[torch.device, tuple[list[Tensor] | None, Tensor | None]] = {}

    def start(self, length: int) -> None:
        """Begin a pass after which the sequence has `length` positions."""
        self._length = length
        self._open.clear()

    def add(self, layer: int, call: AttentionCall) -> bool:
        """Add a layer's call of one query; return False where it has edits that this class does not compute."""
        edit = combined_edit(call, torch.zeros(1, dtype=torch.int64, device=call.query.device)) if call.edits else None
        if edit is not None and edit.weight_scale is not None:
            return False
        device, width = call.query.device, max(self._length, call.key_count)
        logits = self._open.get(device)
        if logits is not None and logits.width != width:
            self._finish(device)
            logits = None
        if logits is None:
            logits = self._open[device] = _Logits(call, width, self._layers)
        logits.add(layer, call, self._length, None if edit is None else edit.logit_bias)
        if logits.is_full:
            self._finish(device)
        return True

    def finish(self) -> None:
        """Pass on the rows of all layers added since `start`."""
        for device in tuple(self._open):
            self._finish(device)

    def _finish(self, device: torch.device) -> None:
        logits = self._open.pop(device)
        weights = logits.weights()[..., : self._length]  # [l, B, H, W]
        columns, heads = self._chosen(device)
        if heads is not None:
            weights = weights.index_select(2, heads)
        if self._request.reduces_heads:
            weights = weights.mean(dim=2, keepdim=True)
        if self._request.reduces_layers:
            weights = weights.sum(dim=0, keepdim=True) / self._layers
        for element in range(self._request.batch_size):
            rows = weights[:, element]
            rows = rows.contiguous() if columns is None else rows.index_select(-1, columns[element])
            self._keep(tuple(logits.layers), element, rows[:, :, None])

    def _chosen(self, device: torch.device) -> tuple[list[Tensor] | None, Tensor | None]:
        """Return the columns of each element and the heads as indices on `device`, copied there once."""
        known = self._indices.get(device)
        if known is None:
            keys, heads = self._request.keys, self._request.spec.heads
            columns = None if keys is None else [as_index(own, device) for own in keys]
            known = self._indices[device] = (columns, None if heads is None else as_index(heads, device))
        return known


class _Logits:
    """Hold the logits [l, B, H, W] of the layers of one device that have the same W.

    Args:
        call: the first layer's call.
        width: W.
        layers: largest number of layers.
    """

    def __init__(self, call: AttentionCall, width: int, layers: int) -> None:
        batch, heads = call.query.shape[:2]
        size = max(1, min(layers, WORKING_BYTES // (batch * heads * width * 4 * 2)))
        self._values = torch.empty(size, batch, heads, width, dtype=torch.float32, device=call.query.device)
        self._masked: dict[tuple[object, ...], tuple[AttentionCall, list[int]]] = {}
        self.width = width
        self.layers: list[int] = []

    @property
    def is_full(self) -> bool:
        return len(self.layers) == len(self._values)

    def add(self, layer: int, call: AttentionCall, length: int, bias: Tensor | None) -> None:
        slot, start = len(self.layers), max(length - call.key_count, 0)
        row = self._values[slot]  # [B, H, W]
        if call.key_count < self.width:
            row[..., :start] = -torch.inf
            row = row[..., start:]
        write_logits(row, call.query, call.key, call.scale)
        if call.softcap is not None:
            row.div_(call.softcap).tanh_().mul_(call.softcap)
        if call.bias is not None:
            row += pick_rows(call.bias, None, torch.zeros(1, dtype=torch.int64), call.key_count)[:, :, 0]
        if bias is not None:
            row += bias[:, :, 0]
        # A mask is shared by many layers; without one, every key up to `length` is visible to the newest token.
        if call.mask is not None or call.window is not None or (call.causal and call.key_count > length):
            key = (id(call.mask), call.window, call.causal, call.key_count)
            located = replace(call, query_offset=length - 1, key_offset=start, edits=())
            self._masked.setdefault(key, (located, []))[1].append(slot)
        self.layers.append(layer)

    def weights(self) -> Tensor:
        """Return [l, B, H, W] float32, softmax over all keys."""
        values = self._values[: len(self.layers)]
        for call, slots in self._masked.values():
            mask = mask_rows(call, torch.zeros(1, dtype=torch.int64, device=values.device))
            if mask is not None:
                chosen = [values] if len(slots) == len(values) else [values[slot] for slot in slots]
                for part in chosen:
                    part[..., call.key_offset : call.key_offset + call.key_count] += mask[:, :, 0]
        return torch.softmax(values, dim=-1)
