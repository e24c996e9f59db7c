"""Keep the attention calls of a decode step that differ from those of the step before in nothing but their tensors.

A decode step makes many small calls, and the model's arithmetic between them empties the processor's caches: to
describe and check each would cost a part of the step. A repeated call needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_

from torch import Tensor

from grounding.attention.call import AttentionCall


class RepeatedCalls:
    """Keep the repeated calls of one step at a time, each layer's once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[str, ...], tuple[object, ...]]] = {}  # options of layers' last calls
        self._expected: dict[int, tuple[tuple[str, ...], tuple[object, ...]]] = {}  # of calls that have not come
        self._kept: list[tuple[int, Tensor, Tensor]] = []

    def __contains__(self, layer: object) -> bool:
        """Whether a layer's call of this step is kept."""
        return any(layer == kept for kept, _, _ in self._kept)

    def start(self) -> None:
        """Begin a step, and give up the calls of one that failed."""
        self._kept.clear()
        self._expected = self._known.copy()

    def know(self, layer: int, call: AttentionCall) -> None:
        """Expect further calls of a layer to be as its last one, where that is a plain call without a mask."""
        if call.mask is None and call.window is None and call.options:
            names, values = zip(*call.options, strict=True)
            self._known[layer] = names, values
        else:
            self._known.pop(layer, None)

    def keep(self, layer: int, query: Tensor, key: Tensor, options: Mapping[str, object]) -> bool:
        """Keep an unedited call without a mask until `take`.

        Args:
            layer: the layer.
            query: [B, H, Q, D].
            key: [B, H/G, K, D].
            options: of the kernel; see `AttentionCall.options`.

        Returns:
            False where it differs from the layer's last call, so that it must be described.
        """
        known = self._expected.pop(layer, None)
        # A tensor has no truth value to compare by; equal numbers of one module are one object.
        if known is None or not all(map(is_, map(options.get, known[0]), known[1])):
            return False
        self._kept.append((layer, query, key))
        return True

    def take(self) -> list[tuple[int, Tensor, Tensor]]:
        """Remove and return the step's calls, which has ended: layer, query and key of each."""
        kept, self._kept, self._expected = self._kept, [], {}
        return kept
