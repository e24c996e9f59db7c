"""Hold what the rows of several decode steps of one layer need, and write their logits.

A change of the held keys in place is refused: by torch's version counter, and where there is none (inference mode) by
computing logits of the oldest held step twice, as it is read and at the end, and by a copy of each later key. Not seen
are a change of an old key that moves these logits by less than their tolerance, and one of a newer key before it is
copied, which may be some steps later.

Shape letters as in `grounding.attention.rows`; n held steps, W keys of the newest step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.rows import write_logits
from grounding.attention.step_copies import StepCopies
from grounding.errors import RecordingError
from grounding.numerics import overflow

LOGIT_TOLERANCE = {"cpu": 1e-5}
"""Largest difference of logits computed twice, over the largest logit, by device: rounding of float32 (our choice)."""

TF32_TOLERANCE = 2e-3
"""The same on other devices, which may round to TF32 (our choice)."""


@dataclass(frozen=True, eq=False)
class CallKind:
    """What the calls of a layer have in common from step to step.

    Attributes:
        scale: factor on q k^T.
        softcap: logits become softcap * tanh(logit / softcap); None applies no cap.
        options: see `AttentionCall.options`.
        size: (B, H, 1, D) of the query.
        copies: where queries and own keys are copied to, shared by layers of equal sizes.
    """

    scale: float
    softcap: float | None
    options: tuple[object, ...]
    size: torch.Size
    copies: tuple[StepCopies, StepCopies]

    @classmethod
    def of(cls, call: AttentionCall, copies: tuple[StepCopies, StepCopies]) -> CallKind:
        """Describe a call."""
        return cls(call.scale, call.softcap, call.options, call.query.shape, copies)

    def call(self, query: Tensor, key: Tensor) -> AttentionCall:
        """Describe another call, without a mask and without its values, which rows do not need."""
        return AttentionCall(
            query=query,
            key=key,
            value=key[..., :0],
            mask=None,
            scale=self.scale,
            causal=False,
            softcap=self.softcap,
            options=self.options,
        )


@dataclass
class HeldSteps:
    """Hold the steps of one layer.

    Attributes:
        newest: [B, H/G, W, D], the keys of the newest held step; None while a pass runs, so that the cache frees them
            as it does when nothing is recorded.
        kind: of the calls.
        cached: the cache's layer, whose `keys` that tensor is.
        first: [B, H/G, K] logits of the oldest held step as they were then, of each key head's first query head; None
            where torch counts changes.
        queries: [B, H, 1, D] of each held step; copies, but for those since `copy_newest` last ran.
        own: [B, H/G, c, D] copies of the keys from the oldest step's own on, in parts, likewise; none where torch
            counts changes.
        copied: number of steps of which the query has been copied.
        copied_keys: number of keys in `own`.
        masks: additive mask [B or 1, H or 1, 1, K] of each held step, or None.
        steps: number of each.
        counts: K of each.
    """

    newest: Tensor | None
    kind: CallKind
    cached: Any
    first: Tensor | None
    queries: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    copied: int = 0
    copied_keys: int = 0

    @classmethod
    def of(cls, kind: CallKind, query: Tensor, key: Tensor, cached: Any) -> HeldSteps:
        """Begin with a call, which is yet to be added.

        Args:
            kind: of the call.
            query: [B, H, 1, D].
            key: [B, H/G, K, D].
            cached: see the attributes.
        """
        return cls(key, kind, cached, _logits_of_first_heads(query, key, kind.scale) if key.is_inference() else None)

    @property
    def key(self) -> Tensor:
        """`newest`, between passes."""
        assert self.newest is not None, "a pass is running"
        return self.newest

    @property
    def size(self) -> tuple[int, int, int, int]:
        """B, H, n, W."""
        batch, heads = self.queries[0].shape[:2]
        return batch, heads, len(self.steps), self.key.shape[2]

    def continues(self, kind: CallKind, key: Tensor) -> bool:
        """Whether the rows of a call can be computed with those of the held steps, and changes be seen as for them."""
        alike = kind is self.kind or (kind.scale, kind.softcap) == (self.kind.scale, self.kind.softcap)
        return alike and key.shape[2] == self.counts[-1] + 1 and key.is_inference() is (self.first is not None)

    @property
    def uncopied(self) -> tuple[int, int]:
        """How many queries and how many keys are yet to be copied."""
        keys = 0 if self.first is None else self.counts[-1] - (self.counts[0] - 1) - self.copied_keys
        return len(self.steps) - self.copied, keys

    def add(self, step: int, count: int, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Add a step and the number K of its keys; see the attributes."""
        self.newest = key
        self.queries.append(query)
        self.masks.append(mask)
        self.steps.append(step)
        self.counts.append(count)

    def end(self, layer: int, key: Tensor) -> None:
        """Take the keys of the held steps from the next step's call, which cannot be added.

        Args:
            layer: the layer.
            key: [B, H/G, K, D] of the call, which are theirs and one more.

        Raises:
            RecordingError: it has another number of keys, so that theirs are lost.
        """
        if key.shape[2] != self.counts[-1] + 1:
            raise RecordingError(_changed(layer))
        self.newest = key.narrow(2, 0, self.counts[-1])

    def refuse_changed(self, layer: int) -> None:
        """Refuse keys of which torch has counted a change.

        Raises:
            RecordingError: there was one.
        """
        if was_changed(self.key):
            raise RecordingError(_changed(layer))

    def write_logits(self, out: Tensor, later: Tensor) -> Tensor | None:
        """Write the masked logits [B, H, n, W]; a key that came after a step has minus infinity.

        Args:
            out: [B, H, n, W] float32, overwritten.
            later: of these steps, as `later_keys` makes it.

        Returns:
            The largest difference from `first` over its largest value, at least 1 where `own` differs, as a scalar
            tensor; None where torch counts changes.
        """
        write_logits(out, torch.cat(self.queries, dim=2), self.key, self.kind.scale)
        difference = None
        if self.first is not None:
            same = out[:, :: out.shape[1] // self.first.shape[1], 0, : self.counts[0]]
            largest = self.first.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
            difference = (same - self.first).abs_().amax() / largest
            if self.own:
                own = torch.cat(self.own, dim=2)
                difference = difference + (own != self.key.narrow(2, self.counts[0] - 1, own.shape[2])).any()
        softcap = self.kind.softcap
        if softcap is not None:
            out.div_(softcap).tanh_().mul_(softcap)
        for index, (mask, count) in enumerate(zip(self.masks, self.counts, strict=True)):
            if mask is not None:
                out[:, :, index, :count] += mask[:, :, 0]
        out[..., self.counts[0] :] += later
        return difference


def copy_newest(layers: Iterable[HeldSteps]) -> None:
    """Copy what the rows of layers' steps need, of the steps that have ended since the last time."""
    alike: dict[tuple[tuple[StepCopies, StepCopies], tuple[int, int]], list[HeldSteps]] = {}
    for held in layers:
        alike.setdefault((held.kind.copies, held.uncopied), []).append(held)
    for ((query_copies, key_copies), (count, keys)), ones in alike.items():
        if count:
            parts = iter(query_copies.copy([query for held in ones for query in held.queries[-count:]]))
            for held in ones:
                held.queries[-count:] = islice(parts, count)
                held.copied += count
        if keys:
            newest = [held.key.narrow(2, held.key.shape[2] - keys, keys) for held in ones]
            for held, own in zip(ones, key_copies.copy(newest), strict=True):
                held.own.append(own)
                held.copied_keys += keys


def later_keys(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return [n, W - K] with minus infinity at the keys that came after each step, of those after the oldest's K."""
    keys = torch.arange(counts[0], counts[-1])
    hidden = keys >= torch.tensor(counts)[:, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf).to(device)


def was_changed(tensor: Tensor) -> bool:
    """Whether a tensor was changed in place since it was made; False in inference mode, where torch does not count."""
    return not tensor.is_inference() and tensor._version > 0


def refuse_differing(
    layers: Sequence[int], dtype: torch.dtype, device: torch.device, differences: Sequence[float]
) -> None:
    """Refuse layers whose logits, computed twice, differ by more than rounding.

    Args:
        layers: the layers.
        dtype: of their keys.
        device: of their keys.
        differences: of each, as `HeldSteps.write_logits` returns it.

    Raises:
        RecordingError: a layer's keys were changed in place.
        ModelError: a layer's logits are not finite.
    """
    tolerance = LOGIT_TOLERANCE.get(device.type, TF32_TOLERANCE)
    for layer, difference in zip(layers, differences, strict=True):
        if not math.isfinite(difference):
            raise overflow(f"the attention of layer {layer}", dtype)
        if difference > tolerance:
            raise RecordingError(_changed(layer))


def _changed(layer: int) -> str:
    return (
        f"the keys of layer {layer} were changed in place in the cache, or cut within a step, while rows of several "
        "decode steps waited to be computed at once: put new tensors into the cache between steps, or record with "
        "on_step, for which every row is computed in its step"
    )


def _logits_of_first_heads(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return the logits [B, H/G, K] of the first query head of each key head."""
    chosen = query[:, :: query.shape[1] // key.shape[1]]
    logits = torch.empty(*chosen.shape[:2], key.shape[2], dtype=torch.float32, device=chosen.device)
    write_logits(logits, chosen, key, scale)
    return logits
