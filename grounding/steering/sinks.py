"""Find the attention sinks of a prompt in the residual stream while it is read (Kang et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grounding.attention.rows import as_index
from grounding.attention.sinks import SinkRule, sink_dimensions, sink_strength
from grounding.layout import TokenLayout
from grounding.steering.apply import GenerationPass, beams_of


class SinkMemory:
    """Remember per layer which prompt positions are sinks.

    Beams of one element share a prompt, so sinks are kept per element. Generated tokens are never sinks, since the
    paper looks for sinks at prefill only.

    Args:
        segments: the prompt of every element.
        rule: which positions are sinks.
        dims: the model's sink dimensions; those of the element's first token where None (see `sink_dimensions`).
    """

    def __init__(self, segments: Sequence[TokenLayout], rule: SinkRule, dims: Sequence[int] | None = None) -> None:
        self._segments = segments
        self._rule = rule
        self._dims = dims
        self._own_dims: dict[tuple[int, int], Tensor] = {}
        self._sinks: dict[int, Tensor] = {}

    def find(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """Find the sinks in a layer's input [rows, Q, E], in a pass that reads the prompt."""
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
                    sink_dimensions(own, segment.padding - running.past)
                    if self._dims is None
                    else as_index(self._dims, hidden.device)
                )
                self._own_dims[layer, element] = found
            if (layer, element) in self._own_dims:
                phi = sink_strength(own, self._own_dims[layer, element])
                real = torch.arange(running.past, stop, device=phi.device) >= segment.padding
                self._sinks[layer][element, running.past : stop] = self._rule.sinks(phi, layer) & real

    def of(self, layer: int, rows: int, keys: int) -> Tensor:
        """Which keys are sinks, [rows, 1, 1, K] bool with rows = elements times beams."""
        sinks = self._sinks[layer]
        sinks = sinks.repeat_interleave(beams_of(rows, sinks.shape[0]), dim=0)
        return torch.nn.functional.pad(sinks, (0, keys - sinks.shape[1]))[:, None, None]
