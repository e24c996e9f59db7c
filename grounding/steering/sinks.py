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
    """Store the sink positions of the prompt, per layer and element.

    Beams of one element share a prompt and so its sinks. Generated tokens are never sinks: the paper finds sinks during
    prefill only.

    Args:
        layouts: the prompt of every element.
        rule: decides which positions are sinks.
        dims: the model's sink dimensions; found at the element's first token where None (see `sink_dimensions`).
    """

    def __init__(self, layouts: Sequence[TokenLayout], rule: SinkRule, dims: Sequence[int] | None = None) -> None:
        self._layouts = layouts
        self._rule = rule
        self._dims = dims
        self._own_dims: dict[tuple[int, int], Tensor] = {}
        self._sinks: dict[int, Tensor] = {}

    def find(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """Find the sinks in a layer's input during prefill.

        Args:
            layer: the decoder layer.
            hidden: [rows, Q, E], rows = elements times beams.
            running: the pass, which reads the prompt or a piece of it, and without a cache the answer too.
        """
        if running.past == 0:
            self._sinks[layer] = torch.zeros(len(self._layouts), running.prompt, dtype=torch.bool, device=hidden.device)
        beams = beams_of(hidden.shape[0], len(self._layouts))
        stop = min(running.past + running.queries, running.prompt)
        for element, layout in enumerate(self._layouts):
            own = hidden[element * beams, : stop - running.past]  # [Q, E]
            if running.past <= layout.padding < stop:
                found = (
                    sink_dimensions(own, layout.padding - running.past)
                    if self._dims is None
                    else as_index(self._dims, hidden.device)
                )
                self._own_dims[layer, element] = found
            if (layer, element) in self._own_dims:
                phi = sink_strength(own, self._own_dims[layer, element])
                real = torch.arange(running.past, stop, device=phi.device) >= layout.padding
                self._sinks[layer][element, running.past : stop] = self._rule.sinks(phi, layer) & real

    def of(self, layer: int, rows: int, keys: int) -> Tensor:
        """Return [rows, 1, 1, K] bool, true on sinks.

        Args:
            layer: the decoder layer.
            rows: elements times beams.
            keys: K.
        """
        sinks = self._sinks[layer]
        sinks = sinks.repeat_interleave(beams_of(rows, sinks.shape[0]), dim=0)
        return torch.nn.functional.pad(sinks, (0, keys - sinks.shape[1]))[:, None, None]
