"""Store recorded rows: reduce them on arrival, and move them to the CPU.

Shape letters: L layers and H heads after any reduction, R rows, C kept columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from grounding.attention.budget import FLOAT
from grounding.attention.request import RowRequest

WAITING_BYTES = 16 << 20
"""Largest size of decode rows that wait on an accelerator, so that few steps synchronise with it (our choice)."""


class RowStore:
    """Hold prefill and decode rows of one recording.

    Rows on the CPU are written at once. Rows on an accelerator stay there until the pass ends, so that recording does
    not synchronise host and device once per layer; those of decode steps stay for several steps.

    Args:
        request: what to record.
        layers: recorded decoder layers, in order.
        heads: number of recorded heads before any reduction.
    """

    def __init__(self, request: RowRequest, layers: tuple[int, ...], heads: int) -> None:
        self._request = request
        self._slot = {layer: 0 if request.reduces_layers else slot for slot, layer in enumerate(layers)}
        self._share = 1 / len(layers) if request.reduces_layers else 1.0
        self._size = (1 if request.reduces_layers else len(layers), 1 if request.reduces_heads else heads)
        self._prefill: list[Tensor | None] = [None] * request.batch_size
        self._steps: list[list[Tensor]] = [[] for _ in range(request.batch_size)]
        self._waiting_bytes = 0  # of decode rows on accelerators
        self._bytes = 0  # of all steps, whether their rows have arrived or not
        self._waiting: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
        self._empty = torch.zeros(*self._size, 1, 0)

    def add(self, layer: int, element: int, rows: tuple[int, ...], weights: Tensor, *, decode: bool) -> None:
        """Add rows of one layer.

        Args:
            layer: the decoder layer.
            element: index into the batch.
            rows: indices into the request's queries; (0,) at a decode step.
            weights: [H, r, C] float32 of the recorded heads, on any device.
            decode: whether the rows belong to the newest decode step.
        """
        if self._request.reduces_heads:
            weights = weights.mean(dim=0, keepdim=True)
        weights = weights * self._share if self._share != 1.0 else weights
        if decode:
            self._add_to_step(-1, element, [self._slot[layer]], weights[None])
            return
        if weights.device.type == "cpu":
            self._write(self._slot[layer], element, rows, weights)
            return
        key = (self._slot[layer], element, rows)
        known = self._waiting.get(key)
        # With device_map the layers of one model may be on several devices.
        self._waiting[key] = weights if known is None else known + weights.to(known.device)

    def start_step(self, length: int) -> None:
        """Open a new decode step, after which the sequence has `length` positions."""
        for element, steps in enumerate(self._steps):
            steps.append(self._empty)
            columns = length if self._request.keys is None else len(self._request.keys[element])
            self._bytes += self._size[0] * self._size[1] * columns * FLOAT

    def add_token(self, step: int, layers: Sequence[int], element: int, weights: Tensor) -> None:
        """Add a decode step's rows of several layers.

        Args:
            step: number of the step; -1 for the newest.
            layers: the decoder layers, each once.
            element: index into the batch.
            weights: [l, H, 1, C] float32, on any device, heads and layers already reduced; l = 1 for a mean over
                layers. The tensor is kept, not copied, where it holds the whole step.
        """
        slots = [0] if self._request.reduces_layers else [self._slot[i] for i in layers]
        self._add_to_step(step, element, slots, weights)

    def take_step(self) -> list[Tensor]:
        """Remove and return the newest decode step's rows, per batch element [L, H, 1, C] on the CPU."""
        taken = [steps.pop() for steps in self._steps]
        self._bytes = self._waiting_bytes = 0
        return [step.cpu() for step in taken]

    def flush(self) -> None:
        """Move waiting rows of the prompt, and many waiting rows of decode steps, to the CPU; ends every pass."""
        for (slot, element, rows), weights in self._waiting.items():
            self._write(slot, element, rows, weights.cpu())
        self._waiting.clear()
        if self._waiting_bytes > WAITING_BYTES:
            self._steps = [[step.cpu() for step in steps] for steps in self._steps]
            self._waiting_bytes = 0

    def bytes_of_decode(self) -> int:
        """Return the bytes of the decode steps opened so far."""
        return self._bytes

    def finished(self, prompt: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return per element [L, H, R, C], and [steps, L, H, 1, C] or nothing where decode steps are not recorded.

        Args:
            prompt: positions of the prompt, the least C where all columns are kept.
        """
        keys, elements = self._request.keys, range(self._request.batch_size)
        columns = [prompt if keys is None else len(keys[b]) for b in elements]
        prefill = [self._finished_prefill(b, columns[b]) for b in elements]
        return prefill, [self._finished_decode(b, columns[b]) for b in elements] if self._request.decode else []

    def _finished_prefill(self, element: int, columns: int) -> Tensor:
        kept = self._prefill[element]
        if kept is None:
            kept = torch.zeros(*self._size, len(self._request.queries[element]), columns)
        return pad(kept, (0, columns - kept.shape[-1])) if kept.shape[-1] < columns else kept

    def _finished_decode(self, element: int, columns: int) -> Tensor:
        steps = self._steps[element]
        columns = max([columns, *(step.shape[-1] for step in steps)])
        out = torch.zeros(len(steps), *self._size, 1, columns)
        for index, step in enumerate(steps):
            out[index, ..., : step.shape[-1]] = step
        return out

    def _add_to_step(self, index: int, element: int, slots: list[int], weights: Tensor) -> None:
        """Add [l, H, 1, C] to `slots` of a step."""
        step = self._steps[element][index]
        columns = weights.shape[-1]
        before = _waiting(step)
        if step.shape[-1] == 0 and slots == list(range(self._size[0])):
            step = weights
        else:
            step = step.to(weights.device) if step.shape[-1] == 0 else step
            if step.shape[-1] < columns:
                step = pad(step, (0, columns - step.shape[-1]))
            weights = weights.to(step.device)
            step[..., :columns].index_add_(0, torch.tensor(slots, device=step.device), weights)
        self._waiting_bytes += _waiting(step) - before
        self._steps[element][index] = step

    def _write(self, slot: int, element: int, rows: tuple[int, ...], weights: Tensor) -> None:
        target = self._prefill[element]
        columns = weights.shape[-1]
        if target is None:
            target = torch.zeros(*self._size, len(self._request.queries[element]), columns)
        elif target.shape[-1] < columns:
            # All columns are kept and prefill is chunked: rows of earlier chunks have 0 in columns of later ones.
            target = pad(target, (0, columns - target.shape[-1]))
        target[slot, ..., :columns].index_add_(1, torch.tensor(rows, dtype=torch.int64), weights)
        self._prefill[element] = target


def _waiting(step: Tensor) -> int:
    return 0 if step.device.type == "cpu" else step.nbytes
