"""Copy the small tensors of a step's layers by one call, into memory that later steps use again.

A call and a view for every layer of every decode step would cost as much as the rows themselves, and small tensors made
between the large ones of a growing cache would fragment the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class StepCopies:
    """Hold copies of the tensors, alike in shape and dtype, of the last few steps.

    Args:
        steps: number of steps; a copy is overwritten that many steps later.
    """

    def __init__(self, steps: int) -> None:
        self._slots: list[tuple[Tensor, tuple[Tensor, ...]] | None] = [None] * steps
        self._next = 0

    def copy(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return copies of a step's tensors, at least one, as parts of one tensor."""
        slot = self._slots[self._next]
        if slot is None or len(slot[1]) != len(tensors):
            with torch.inference_mode(False):  # so that steps outside that mode can write to it
                like = tensors[0]
                whole = torch.empty(len(tensors), *like.shape, dtype=like.dtype, device=like.device)
                slot = self._slots[self._next] = (whole, whole.unbind())
        self._next = (self._next + 1) % len(self._slots)
        torch.stack(list(tensors), out=slot[0])
        return slot[1]
