"""Select the chosen heads and columns of rows of generated tokens, and average as requested.

Shape letters: l layers, B batch, H query heads, n steps, W keys, C kept columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grounding.attention.request import RowRequest
from grounding.attention.rows import as_index


class KeptAxes:
    """Select the chosen heads and columns, and average as requested.

    Args:
        request: what to record.
        layers: number of recorded layers, by which a mean over layers divides.
    """

    def __init__(self, request: RowRequest, layers: int) -> None:
        self._request = request
        self._layers = layers
        self._indices: dict[torch.device, tuple[list[Tensor | slice], Tensor | None]] = {}

    @property
    def keeps_all(self) -> bool:
        """Whether rows are kept as they are."""
        request = self._request
        return request.keys is None and request.spec.heads is None and request.spec.reduce == "none"

    def __call__(self, weights: Tensor) -> list[Tensor]:
        """Return rows of some layers [l, B, H, n, W] as they are kept, per batch element [l, H, n, C]; see `space`."""
        if self.keeps_all:
            return [rows.contiguous() for rows in weights.unbind(1)]
        out = self.space(weights.shape, weights.device)
        self.write(out, slice(0, len(weights)), weights)
        return out

    def space(self, shape: Sequence[int], device: torch.device) -> list[Tensor]:
        """Make the tensors that `write` fills.

        Args:
            shape: l, B, H, n and W of all rows that are to be written.
            device: where.

        Returns:
            Per batch element [l, H, n, C]; averaged axes are 1.
        """
        request, (layers, batch, heads, steps, width) = self._request, shape
        layers = 1 if request.reduces_layers else layers
        heads = heads if request.spec.heads is None else len(request.spec.heads)
        heads = 1 if request.reduces_heads else heads
        columns = [width if request.keys is None else len(request.keys[element]) for element in range(batch)]
        make = torch.zeros if request.reduces_layers else torch.empty
        return [make(layers, heads, steps, count, dtype=torch.float32, device=device) for count in columns]

    def write(self, out: Sequence[Tensor], slots: slice, weights: Tensor) -> None:
        """Write the rows of some layers.

        Args:
            out: of `space`.
            slots: which of its layers they are; a mean over layers is added to, and weighs each by 1 over `layers`.
            weights: [l, B, H, n, W].
        """
        all_columns, heads = self._chosen(weights.device)
        for target, rows, columns in zip(out, weights.unbind(1), all_columns, strict=True):
            if isinstance(columns, slice):
                rows = rows[..., columns]
            if heads is not None:
                rows = rows.index_select(1, heads)
            if self._request.reduces_heads:
                rows = rows.mean(dim=1, keepdim=True)
            if self._request.reduces_layers:
                rows = rows.sum(dim=0, keepdim=True) / self._layers
            if isinstance(columns, Tensor):
                rows = rows.index_select(-1, columns)
            if self._request.reduces_layers:
                target += rows
            else:
                target[slots] = rows

    def _chosen(self, device: torch.device) -> tuple[list[Tensor | slice], Tensor | None]:
        """Return the columns of each element, a range as a slice, and the heads; copied to `device` once."""
        known = self._indices.get(device)
        if known is None:
            keys, heads = self._request.keys, self._request.spec.heads
            whole: list[Tensor | slice] = [slice(None)] * self._request.batch_size
            columns = whole if keys is None else [_columns(own, device) for own in keys]
            known = self._indices[device] = (columns, None if heads is None else as_index(heads, device))
        return known


def _columns(keys: tuple[int, ...], device: torch.device) -> Tensor | slice:
    """Return an index of columns; a slice, which is copied faster, where they follow one another."""
    first = keys[0] if keys else 0
    return slice(first, first + len(keys)) if keys == tuple(range(first, first + len(keys))) else as_index(keys, device)
