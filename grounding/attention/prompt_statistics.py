"""Compute statistics of a prompt: per head over all queries, and the sink strength phi of every key."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from grounding.attention.call import AttentionCall
from grounding.attention.request import RowRequest
from grounding.attention.rows import (
    as_index,
    real_queries,
    row_maxima,
)
from grounding.attention.sinks import sink_dimensions, sink_strength
from grounding.errors import RecordingError

KEYS_AT_ONCE = 1024
"""Number of keys whose residuals are copied at a time, to bound memory (our choice)."""


class PromptStatistics:
    """Accumulate head statistics and phi of one prompt, per layer and per prefill chunk.

    Args:
        request: what to record.
        layers: recorded decoder layers, in order.
    """

    def __init__(self, request: RowRequest, layers: tuple[int, ...]) -> None:
        self._request = request
        self._layers = layers
        self._residuals: dict[int, Tensor] = {}
        self._dims: dict[tuple[int, int], Tensor] = {}
        self._sinks: dict[tuple[int, int], Tensor] = {}
        self._sums: dict[tuple[str, int, int], tuple[Tensor, int]] = {}

    def hold_residual(self, layer: int, hidden: Tensor) -> None:
        """Hold a layer's input [B, Q, E] until its attention call identifies padding."""
        self._residuals[layer] = hidden.detach()

    def drop_residuals(self, layer: int | None = None) -> None:
        """Drop one layer's input, or all of them."""
        if layer is None:
            self._residuals.clear()
        else:
            self._residuals.pop(layer, None)

    def add(self, layer: int, element: int, call: AttentionCall) -> None:
        """Add one layer's attention call for one batch element; the call must read the prompt."""
        if self._request.spec.head_statistics:
            self._add_statistics(layer, element, call)
        if self._request.spec.residual_sinks:
            self._add_sinks(layer, element, call)

    def statistics(self, element: int) -> dict[str, Tensor]:
        """Return name → [L, H] means over the element's unpadded prompt positions."""
        means = {}
        for name in self._request.spec.head_statistics:
            rows = []
            for layer in self._layers:
                total, count = self._sums[name, layer, element]
                rows.append(total / max(count, 1))
            stacked = torch.stack(rows)
            means[name] = stacked if self._request.spec.heads is None else stacked[:, list(self._request.spec.heads)]
        return means

    def sinks(self, element: int, columns: int) -> Tensor:
        """Return [L, C] phi of each kept key in its layer's sink dimensions (`columns` is C)."""
        return torch.stack([self._sinks_of(layer, element, columns) for layer in self._layers])

    def _add_statistics(self, layer: int, element: int, call: AttentionCall) -> None:
        columns: dict[str, Tensor | None] = {}
        for name in self._request.spec.head_statistics:
            image = self._request.image_keys if name == "max_image" else None
            columns[name] = as_index(image[element], call.query.device) if image is not None else None
        sums, count = row_maxima(call, element, columns)
        for name, total in sums.items():
            before, counted = self._sums.get((name, layer, element), (0, 0))
            self._sums[name, layer, element] = (before + total.cpu(), counted + count)

    def _add_sinks(self, layer: int, element: int, call: AttentionCall) -> None:
        if layer not in self._residuals:
            raise RecordingError(f"layer {layer} was given no hidden states as its input; residual_sinks needs them")
        hidden = self._residuals[layer][element]  # [Q, E]
        if (layer, element) not in self._dims:
            real = real_queries(call, element)
            first = 0 if real is None else int(real.int().argmax())
            if real is not None and not bool(real[first]):
                return  # the chunk is all padding
            self._dims[layer, element] = sink_dimensions(hidden, first)
        start, stop = call.query_offset, call.query_offset + call.query_count
        keys = self._request.keys[element] if self._request.keys is not None else tuple(range(stop))
        chosen = [(slot, key - start) for slot, key in enumerate(keys) if start <= key < stop]
        phi = self._sinks_of(layer, element, len(keys))
        for first in range(0, len(chosen), KEYS_AT_ONCE):
            part = chosen[first : first + KEYS_AT_ONCE]
            index = as_index([local for _, local in part], hidden.device)
            strength = sink_strength(hidden.index_select(0, index), self._dims[layer, element])
            phi[[slot for slot, _ in part]] = strength.cpu()
        self._sinks[layer, element] = phi

    def _sinks_of(self, layer: int, element: int, columns: int) -> Tensor:
        phi = self._sinks.get((layer, element), torch.zeros(0))
        return pad(phi, (0, columns - len(phi)))
