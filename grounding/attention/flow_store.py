"""Keep queries and keys of every layer while the model runs, and compute the rows of the attention flow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.flow import flow_rows
from grounding.attention.request import RowRequest
from grounding.attention.rows import as_index
from grounding.errors import RecordingError


@dataclass
class _Layer:
    """One layer's calls without keys, and the keys of every position in pieces."""

    device: torch.device
    calls: list[tuple[AttentionCall, int]] = field(default_factory=list)  # and the number of keys of each
    keys: list[Tensor] = field(default_factory=list)


class FlowStore:
    """Hold what the flow of one recording is computed from.

    A layer's queries and keys are kept as the kernel received them where the flow keeps them as they are: they are then
    not copied, but live until the recording ends. Values are not kept. A mask of N x N entries that the model made for
    a padded batch is kept, once for all layers that share it.

    Args:
        request: what to record; its spec has a flow.
    """

    def __init__(self, request: RowRequest) -> None:
        assert request.spec.flow is not None
        self._request = request
        self._rule = request.spec.flow
        self._layers: dict[int, _Layer] = {}
        self.nbytes = 0
        """Bytes of the queries and keys so far."""

    def add(self, layer: int, call: AttentionCall) -> None:
        """Keep one layer's call of one pass.

        Args:
            layer: the decoder layer.
            call: located: with `query_offset`, `key_offset` and `real`.

        Raises:
            RecordingError: the call is edited.
        """
        if call.edits:
            raise RecordingError(
                "attention is edited while its flow is recorded, and a flow of edited weights is not defined: record "
                "the flow of the unsteered model"
            )
        kept = self._layers.setdefault(layer, _Layer(call.query.device))
        first, stop = call.query_offset, call.query_offset + call.query_count
        fresh = call.key[:, :, first - call.key_offset : stop - call.key_offset]
        # A part of a cache is copied, since the model may overwrite the cache.
        kept.keys.append(self._kept(fresh.clone() if fresh.shape != call.key.shape else fresh))
        none = call.key.new_empty(0)
        bare = replace(call, query=self._kept(call.query), key=none, value=none, log_sum_exp=None)
        kept.calls.append((bare, min(call.key_count, stop - call.key_offset)))

    def rows(self, prompt: int, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the rows that the request names, and those of all decode steps if it wants them.

        Args:
            prompt: positions of the prompt.
            length: positions read in all.

        Returns:
            As in `Recording`: per element [1, 1, R, C], and [steps, 1, 1, 1, C] or nothing without decode steps.
        """
        request = self._request
        steps = range(prompt, length) if request.decode else range(0)
        wanted = [(*queries, *steps) for queries in request.queries]
        device = next(iter(self._layers.values())).device
        positions = [as_index(own, device) for own in wanted]
        image = None if request.image_keys is None else [as_index(own, device) for own in request.image_keys]
        flows = [flow.cpu() for flow in flow_rows(self._last_to_first(), positions, length, self._rule, image)]
        prefill, decode = [], []
        for element, flow in enumerate(flows):
            keys = None if request.keys is None else as_index(request.keys[element], flow.device)
            count = len(request.queries[element])
            columns = slice(0, prompt) if keys is None else keys
            prefill.append(flow[:count, columns][None, None])
            own = flow[count:] if keys is None else flow[count:, keys]
            decode.append(own[:, None, None, None])
        return prefill, decode if request.decode else []

    def _last_to_first(self) -> Iterator[Sequence[AttentionCall]]:
        for index in sorted(self._layers, reverse=True):
            layer = self._layers[index]
            keys = layer.keys[0] if len(layer.keys) == 1 else torch.cat(layer.keys, dim=2)
            keys = keys.to(layer.device)
            yield [
                replace(
                    call,
                    query=call.query.to(layer.device),
                    key=keys[:, :, call.key_offset : call.key_offset + count],
                )
                for call, count in layer.calls
            ]

    def _kept(self, values: Tensor) -> Tensor:
        values = values.detach()
        if self._rule.cache_dtype == "bfloat16":
            values = values.to(torch.bfloat16)
        values = values.cpu() if self._rule.cache_device == "cpu" else values
        self.nbytes += values.nbytes
        return values
