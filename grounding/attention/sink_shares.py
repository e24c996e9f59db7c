"""Keep the share of each recorded row that learned attention sinks take (gpt-oss, arXiv 2508.10925)."""

from __future__ import annotations

import torch
from torch import Tensor

from grounding.attention.request import RowRequest


class SinkShares:
    """Hold, per batch element, the weight [L, H, R] of the learned sinks.

    Args:
        request: what is recorded.
        layers: recorded layers, in order.
        heads: H, the decoder's query heads.
    """

    def __init__(self, request: RowRequest, layers: tuple[int, ...], heads: int) -> None:
        self._request, self._layers, self._heads = request, layers, heads
        self._shares: list[Tensor] | None = None

    def add(self, layer: int, element: int, rows: tuple[int, ...], shares: Tensor) -> None:
        """Add rows of one layer.

        Args:
            layer: the decoder layer.
            element: index into the batch.
            rows: indices into the request's queries.
            shares: [H, r] of all heads.
        """
        chosen = self._request.spec.heads
        heads = list(chosen) if chosen is not None else list(range(self._heads))
        if self._shares is None:
            size = (len(self._layers), len(heads))
            self._shares = [torch.zeros(*size, len(queries)) for queries in self._request.queries]
        self._shares[element][self._layers.index(layer)][:, list(rows)] = shares[heads].cpu()

    def finished(self) -> list[Tensor] | None:
        """Per batch element [L, H, R]; None if no layer has learned sinks."""
        return self._shares
