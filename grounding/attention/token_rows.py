"""Compute the rows of one generated token: logits layer by layer, everything else once for many layers.

Per layer only scale * q k^T is computed, right after the kernel has read the same keys unless the call waits. Mask,
softmax, chosen heads and columns, and means run once for all layers that fit `WORKING_BYTES`, so that their cost does
not grow with the layers.

Shape letters as in `grounding.attention.rows`; l layers of one batch of rows, W columns: K and the dropped keys before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.kept_axes import KeptAxes
from grounding.attention.request import RowRequest
from grounding.attention.rows import (
    WORKING_BYTES,
    combined_edit,
    mask_rows,
    pick_rows,
    softmax_,
    write_logits,
)

Keep = Callable[[tuple[int, ...], int, Tensor], None]
"""Receives the layers, the batch element and their rows [l, H, 1, C] on the model's device; reduced axes are 1."""


class TokenRows:
    """Keep the row of a one-token pass for every recorded layer.

    Args:
        request: what to record.
        layers: number of recorded layers.
        keep: receives finished rows; a mean over layers arrives as l = 1, each layer weighted by 1 over `layers`.
        together: compute the products of all layers in one kernel; where None, on all devices but the CPU.
    """

    def __init__(self, request: RowRequest, layers: int, keep: Keep, together: bool | None = None) -> None:
        self._layers = layers
        self._axes = KeptAxes(request, layers)
        self._keep = keep
        self._together = together
        self._length = 0
        self._open: dict[torch.device, _Logits] = {}

    def start(self, length: int) -> None:
        """Begin a pass after which the sequence has `length` positions."""
        self._length = length
        self._open.clear()

    def add(self, layer: int, call: AttentionCall) -> bool:
        """Add a layer's call of one query; return False where its row is not computed here: scaled weights, sinks."""
        if call.sink_logits is not None:
            return False
        edit = combined_edit(call, torch.zeros(1, dtype=torch.int64, device=call.query.device)) if call.edits else None
        if edit is not None and edit.weight_scale is not None:
            return False
        device, width = call.query.device, max(self._length, call.key_count)
        logits = self._open.get(device)
        if logits is not None and logits.width != width:
            self._finish(device)
            logits = None
        if logits is None:
            together = device.type != "cpu" if self._together is None else self._together
            logits = self._open[device] = _Logits(call, width, self._layers, together)
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
        weights = logits.weights()[..., None, : self._length]  # [l, B, H, 1, W]
        for element, rows in enumerate(self._axes(weights)):
            self._keep(tuple(logits.layers), element, rows)


class _Logits:
    """Hold the logits [l, B, H, W] of the layers of one device that have the same W.

    One layer at a time, its logits are computed when it is added, while its keys are in the processor's cache.
    Together, the products of all layers are one kernel over a copy of their keys, which costs less than one kernel per
    layer on an accelerator.

    Args:
        call: the first layer's call.
        width: W.
        layers: largest number of layers.
        together: compute the products of all layers together.
    """

    def __init__(self, call: AttentionCall, width: int, layers: int, together: bool) -> None:
        batch, heads = call.query.shape[:2]
        self._together = together
        each = batch * heads * width * 4 * 2 + (call.key.nbytes if self._together else 0)
        self._size = max(1, min(layers, WORKING_BYTES // each))
        self._values = torch.empty(self._size, batch, heads, width, dtype=torch.float32, device=call.query.device)
        self._scale, self._keys = call.scale, call.key.shape
        self._products: list[tuple[Tensor, Tensor]] = []  # queries and keys of the first layers
        self._masked: dict[tuple[object, ...], tuple[AttentionCall, list[int]]] = {}
        self.width = width
        self.layers: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether no further layer fits."""
        return len(self.layers) == self._size

    def add(self, layer: int, call: AttentionCall, length: int, bias: Tensor | None) -> None:
        slot, keys = len(self.layers), call.key_count
        self.layers.append(layer)
        # A mask is shared by many layers; without one, every key up to `length` is visible to the newest token.
        if call.mask is not None or call.window is not None or (call.causal and keys > length):
            key = (id(call.mask), call.window, call.causal, keys)
            if key not in self._masked:
                located = replace(call, query_offset=length - 1, key_offset=max(length - keys, 0), edits=())
                self._masked[key] = (located, [])
            self._masked[key][1].append(slot)
        plain = keys == self.width and call.softcap is None and call.bias is None and bias is None
        alike = len(self._products) == slot and call.scale == self._scale and call.key.shape == self._keys
        if self._together and plain and alike:
            self._products.append((call.query, call.key))
            return
        row = self._values[slot]  # [B, H, W]
        if keys < self.width:
            row[..., : self.width - keys] = -torch.inf
            row = row[..., self.width - keys :]
        write_logits(row, call.query, call.key, call.scale)
        if call.softcap is not None:
            row.div_(call.softcap).tanh_().mul_(call.softcap)
        if call.bias is not None:
            row += pick_rows(call.bias, None, torch.zeros(1, dtype=torch.int64), keys)[:, :, 0]
        if bias is not None:
            row += bias[:, :, 0]

    def weights(self) -> Tensor:
        """Return [l, B, H, W] float32, softmax over all keys."""
        values = self._values[: len(self.layers)]
        if self._products:
            query, key = (torch.stack(parts).flatten(0, 1) for parts in zip(*self._products, strict=True))
            write_logits(values[: len(self._products)].flatten(0, 1), query, key, self._scale)
        for call, slots in self._masked.values():
            mask = mask_rows(call, torch.zeros(1, dtype=torch.int64, device=values.device))
            if mask is not None:
                chosen = [values] if len(slots) == len(values) else [values[slot] for slot in slots]
                for part in chosen:
                    part[..., call.key_offset : call.key_offset + call.key_count] += mask[:, :, 0]
        return softmax_(values)
