"""Attention sinks of a prompt, found in the residual stream while it is read (Kang et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grounding.attention.rows import as_index
from grounding.attention.sinks import sink_dimensions, sink_strength
from grounding.steering.apply import GenerationPass, beams_of
from grounding.types import TokenLayout


class SinkMemory:
    """Per layer which prompt positions are sinks: phi >= tau in the stream that enters the layer.

    Beams of one element have one prompt, so a sink is kept per element. Generated tokens are never sinks, as the
    paper looks for them at prefill only.

    Args:
        segments: of every element.
        tau: least phi of a sink.
        dims: the sink dimensions; None: the two in which the element's first token is largest, which is ours (the paper
            lists them per model).
    """

    def __init__(self, segments: Sequence[TokenLayout], tau: float, dims: Sequence[int] | None = None) -> None:
        self._segments = segments
        self._tau = tau
        self._dims = dims
        self._own_dims: dict[tuple[int, int], Tensor] = {}
        self._sinks: dict[int, Tensor] = {}

    def find(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """Take in a layer's input [rows, Q, E] of a pass that reads the prompt."""
        if running.past == 0:
            self._sinks[layer] = torch.zeros(
                len(self._segments), running.prompt, dtype=torch.bool, device=hidden.device
            )
        beams = beams_of(hidden.shape[0], len(self._segments))
        stop = running.past + running.queries
        for element, segment in enumerate(self._segments):
            own = hidden[element * beams]  # [Q, E]
            if running.past <= segment.padding < stop:
                found = (
                    sink_dimensions(own, segment.padding - running.past, 2)
                    if self._dims is None
                    else as_index(self._dims, hidden.device)
                )
                self._own_dims[layer, element] = found
            if (layer, element) in self._own_dims:
                phi = sink_strength(own, self._own_dims[layer, element])
                real = torch.arange(running.past, stop, device=phi.device) >= segment.padding
                self._sinks[layer][element, running.past : stop] = (phi >= self._tau) & real

    def of(self, layer: int, rows: int, keys: int) -> Tensor:
        """[rows, 1, 1, K] bool for rows = elements times beams."""
        sinks = self._sinks[layer]
        sinks = sinks.repeat_interleave(beams_of(rows, sinks.shape[0]), dim=0)
        return torch.nn.functional.pad(sinks, (0, keys - sinks.shape[1]))[:, None, None]
