"""Copy the small tensors of several layers and steps by one call, into memory that is used again.

A call and a view for every layer of every decode step would cost as much as the rows themselves, and small tensors that
stay between the large ones of a growing cache would fragment the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class StepCopies:
    """Hold copies of tensors until `restart`, after which their memory is used again."""

    def __init__(self) -> None:
        self._slots: list[tuple[Tensor, tuple[Tensor, ...]]] = []  # a tensor and its parts
        self._used = 0

    def restart(self) -> None:
        """Give up all copies."""
        self._used = 0

    def copy(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return copies of tensors that are alike in shape, dtype and device; there is at least one."""
        if self._used == len(self._slots):
            self._slots.append(_slot(tensors))
        elif len(self._slots[self._used][1]) != len(tensors) or self._slots[self._used][1][0].shape != tensors[0].shape:
            self._slots[self._used] = _slot(tensors)
        whole, parts = self._slots[self._used]
        self._used += 1
        torch.stack(list(tensors), out=whole)
        return parts


def _slot(like: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    first = like[0]
    with torch.inference_mode(False):  # so that steps outside that mode can write to it
        whole = torch.empty(len(like), *first.shape, dtype=first.dtype, device=first.device)
        return whole, whole.unbind()
