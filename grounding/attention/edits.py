"""What steering does to an attention call: numbers added to logits, factors on weights, for its last queries.

A change names rows and not tensors, so that one description serves a decode step's single row, the few text rows of a
prompt and, in chunks, all of it; and so that whoever records a steered call sees the weights that were really used.
Shape letters as in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grounding.attention.rows import AttentionCall


@dataclass(frozen=True)
class AttentionEdit:
    """What steering does to chosen rows; every axis but the last may be 1 and is then alike for all.

    Attributes:
        bias: [B, H, R, K] float32 added to the logits before the softmax, or None.
        factor: [H'] int64 query heads and [B, H', R, K] float32 times their weights after the softmax, without
            renormalising; or None.
    """

    bias: Tensor | None = None
    factor: tuple[Tensor, Tensor] | None = None

    def up_to(self, keys: int) -> AttentionEdit:
        """The same for the first keys alone."""
        bias = None if self.bias is None else self.bias[..., :keys]
        return AttentionEdit(bias, None if self.factor is None else (self.factor[0], self.factor[1][..., :keys]))


@dataclass(frozen=True)
class RowEdit:
    """A change of the weights of a call's last queries.

    Attributes:
        start: index of the first changed query; all after it are changed.
        turned: from the call (with the changes made before this one) and [R] row indices to what happens to them; or
            what happens to all of them alike.
    """

    start: int
    turned: AttentionEdit | Callable[[AttentionCall, Tensor], AttentionEdit]


Factor = tuple[Tensor, Tensor]
"""[H'] int64 query heads, and [B or 1, H', R or 1, K] factors on their weights."""


def combined_edit(call: AttentionCall, rows: Tensor) -> tuple[Tensor | None, Factor | None]:
    """All changes of a call together, for chosen rows of every batch element.

    A change sees the call as the ones before it left it; rows before a change's start stay as they are.

    Args:
        call: the attention call.
        rows: [R] int64, indices into this call's queries.

    Returns:
        ([B or 1, H or 1, R or 1, K] float32 to add to the logits or None, the factors on the weights or None).
    """
    bias: Tensor | None = None
    factor: Factor | None = None
    for index, change in enumerate(call.changes):
        turned = change.turned
        if not isinstance(turned, AttentionEdit):
            turned = turned(replace(call, changes=call.changes[:index]), rows)
        early = (rows < change.start)[:, None] if change.start > 0 else None  # [R, 1]
        if turned.bias is not None:
            own = turned.bias if early is None else turned.bias.masked_fill(early, 0.0)
            bias = own if bias is None else bias + own
        if turned.factor is not None:
            heads, own = turned.factor
            own = own if early is None else own.masked_fill(early, 1.0)
            factor = (heads, own) if factor is None else _product(factor, (heads, own))
    return bias, factor


def _product(one: Factor, other: Factor) -> Factor:
    heads = torch.cat([one[0], other[0]]).unique()
    parts = []
    for own, factor in (one, other):
        batch, _, rows, keys = torch.broadcast_shapes(one[1][:, :1].shape, other[1][:, :1].shape)
        whole = torch.ones(batch, len(heads), rows, keys, device=factor.device)
        place = torch.searchsorted(heads, own)
        parts.append(whole.index_copy(1, place, factor.expand(batch, len(own), rows, keys)))
    return heads, parts[0] * parts[1]
