"""Record what each query token of a Q-Former reads of the picture.

A Q-Former (BLIP-2, arXiv 2301.12597, section 3.1) writes a picture as a fixed number of query tokens. Every token reads
the whole picture by cross-attention, so that it stands for no part of it. What a word sees of the picture is then its
row over the query tokens times what these read:

    map[word, key] = sum_q row[word, q] * read[q, key]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack
from grounding.attention.output_check import checked, output_error, refuse_unexplained
from grounding.attention.rows import attention_rows
from grounding.errors import RecordingError


class QueryWeights(Subscriber):
    """Keep the cross-attention of query tokens, averaged over heads and layers.

    Args:
        layers: how many layers are averaged.

    Notes:
        The plain mean over all heads and layers is our choice, and so is leaving out that query tokens also read each
        other: no paper says what a query token reads in all. `grounding.models.blip.Blip2.query_layers` chooses layers.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._seen = 0
        self._mean: list[Tensor] = []
        self._errors: list[tuple[int, torch.dtype, Tensor]] = []

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """Add one layer of the whole batch."""
        rows = torch.arange(call.query_count, device=call.query.device)
        few = rows[checked(call.query_count)]
        if not self._seen:
            shape = (call.query_count, call.key_count)
            self._mean = [torch.zeros(shape, device=rows.device) for _ in range(len(call.query))]
        self._seen += 1
        with torch.no_grad():
            for element, mean in enumerate(self._mean):
                weights = attention_rows(call, element, rows)  # [H, Q, K]
                mean += (weights.mean(0) / self._layers).to(mean.device)  # layers may be on several devices
                error = output_error(call, element, few, weights[:, few], output)
                self._errors.append((layer, call.query.dtype, error))

    @property
    def read(self) -> list[Tensor]:
        """Per element [Q, K] float32 on the CPU; each row sums to 1.

        Raises:
            RecordingError: the Q-Former did not run once, or the weights do not reproduce its output.
        """
        if self._seen != self._layers:
            raise RecordingError(
                f"{self._seen} layers of the Q-Former made a call of cross-attention, expected {self._layers}: run the "
                "whole model once"
            )
        refuse_unexplained(self._errors)
        return [mean.cpu() for mean in self._mean]


@contextmanager
def query_weights(model: torch.nn.Module, stack: LayerStack) -> Iterator[QueryWeights]:
    """Keep what query tokens read in the pass that runs inside the block.

    Args:
        model: the whole model.
        stack: the Q-Former's encoder and the modules of its cross-attention.
    """
    kept = QueryWeights(len(stack.layers))
    with intercept(model, kept, Scope(calls=range(len(stack.layers))), stack=stack):
        yield kept
