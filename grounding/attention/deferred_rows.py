"""Compute the rows of several generated tokens at once, up to `STEPS` steps after they were read.

A cache that grows by copying leaves the keys of a step a prefix of the keys of every later step. Then the queries of
several steps, held until their end, give all their rows in one product per layer: the keys are read once for all steps,
and mask, softmax, chosen heads and columns, and means run once for all steps. Held are the newest keys, which the cache
holds anyway, and the queries, copied into one tensor per layer: small tensors between the cache's large ones would
fragment the memory.

A cache that is cropped, reordered or replaced between two steps gets new tensors; the rows are then computed of the old
ones. A change in place is refused: by torch's version counter, and where there is none (inference mode) by computing
the logits of the oldest held step of each layer twice, as it is read and at the end, which shows a change of any key
that it saw.

Shape letters as in `grounding.attention.rows`; l layers of one batch of rows, n held steps, W keys of the newest step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.request import RowRequest
from grounding.attention.rows import WORKING_BYTES, mask_rows, softmax_, write_logits
from grounding.attention.token_rows import KeptAxes
from grounding.compat import grows_by_copy
from grounding.errors import RecordingError
from grounding.numerics import overflow

STEPS = 16
"""Largest number of steps whose rows are computed together (our choice): more gain little."""

CACHED_BYTES = 2 << 20
"""Bytes of logits and weights computed at once on a CPU, so that they stay in its cache (our choice)."""

LOGIT_TOLERANCE = 2e-3
"""Largest difference of logits computed twice, over the largest logit: the rounding of TF32 (our choice)."""

Keep = Callable[[int, Sequence[int], int, Tensor], None]
"""Receives the step, the layers, the batch element and their rows [l, H, 1, C]; reduced axes are 1."""


@dataclass
class _Layer:
    """Hold what the rows of one layer need.

    Attributes:
        key: [B, H/G, W, D] of the newest held step.
        scale: factor on q k^T.
        softcap: logits become softcap * tanh(logit / softcap); None applies no cap.
        options: of the newest held call; see `AttentionCall.options`.
        first: [B, H/G, K] logits of the oldest held step as they were then, of each key head's first query head; None
            where torch counts changes.
        queries: [B, H, 1, D] each, `STEPS` parts of one tensor, of which the first n are of the held steps.
        masks: additive mask [B or 1, H or 1, 1, K] of each held step, or None.
        steps: number of each.
        counts: K of each.
    """

    key: Tensor
    scale: float
    softcap: float | None
    options: tuple[object, ...]
    first: Tensor | None
    queries: tuple[Tensor, ...]
    masks: list[Tensor | None] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class DeferredRows:
    """Keep the rows of one-token passes whose cache grows by copying.

    Args:
        request: what to record.
        layers: number of recorded layers.
        keep: receives finished rows; a mean over layers arrives as l = 1, each layer weighted by 1 over `layers`.
    """

    def __init__(self, request: RowRequest, layers: int, keep: Keep) -> None:
        self._axes = KeptAxes(request, layers)
        self._keep = keep
        self._held: dict[int, _Layer] = {}
        self._space: dict[int, tuple[Tensor, ...]] = {}  # for the queries of each layer
        self._limit = STEPS
        self._cached: Sequence[Any] = ()  # layers of the cache
        self._step = self._length = 0
        self._masks: dict[tuple[object, ...], tuple[AttentionCall, Tensor | None]] = {}  # of the current step

    def start(self, step: int, length: int, cache: Any) -> None:
        """Begin a pass, or finish where its cache is not the one that the held steps left.

        Args:
            step: the pass's number.
            length: positions after it.
            cache: the key/value cache.

        Raises:
            RecordingError: the cache was changed in place since the last pass.
        """
        offloads = getattr(cache, "offloading", False)  # to hold its tensors would keep the memory that it frees
        self._cached = () if cache is None or offloads else getattr(cache, "layers", ())
        self._step, self._length = step, length
        self._masks.clear()
        for layer, held in self._held.items():
            _refuse_changed(layer, held)
        if not all(self._has(layer, held.key) for layer, held in self._held.items()):
            self.finish()

    def add(self, layer: int, call: AttentionCall) -> bool:
        """Hold a layer's call of one query; return False where its row must be computed at once.

        Args:
            layer: the decoder layer.
            call: its call.

        Raises:
            RecordingError: the cache was changed in place since the last pass.
        """
        if call.edits or call.bias is not None or call.sink_logits is not None or call.key_count != self._length:
            return False
        if not self._has(layer, call.key) or _was_changed(call.key):
            return False
        held = self._held.get(layer)
        if held is None:
            self._limit = _step_limit(call)
            if self._limit < 2:
                return False
            first = _logits_of_first_heads(call.query, call.key, call.scale) if call.key.is_inference() else None
            space = self._space_of(layer, call.query)
            held = self._held[layer] = _Layer(call.key, call.scale, call.softcap, call.options, first, space)
        elif held.scale != call.scale or held.softcap != call.softcap:
            return False
        self._hold(held, call.query.detach(), call.key, self._mask(call))
        held.options = call.options
        return True

    def repeat(self, layer: int, query: Tensor, key: Tensor, options: tuple[object, ...]) -> bool:
        """Hold a call of one query without a mask that differs from the layer's last one in nothing but its tensors.

        Args:
            layer: the decoder layer.
            query: [B, H, 1, D].
            key: [B, H/G, K, D].
            options: the call's; see `AttentionCall.options`.

        Returns:
            False where no such call is held, so that this one must be described and added.

        Raises:
            RecordingError: the cache was changed in place since the last pass.
        """
        held = self._held.get(layer)
        if held is None or not options or held.masks[-1] is not None or query.shape != held.queries[0].shape:
            return False
        # A tensor has no truth value to compare by; equal numbers of one module are one object.
        if not all(map(is_, options, held.options)) or query.requires_grad:
            return False
        # `start` has checked that the layer's cache grows by copy.
        if key.shape[2] != self._length or self._cached[layer].keys is not key or _was_changed(key):
            return False
        self._hold(held, query, key, None)
        return True

    def _space_of(self, layer: int, query: Tensor) -> tuple[Tensor, ...]:
        """Return `STEPS` tensors for the queries of a layer, the same for all its steps."""
        known = self._space.get(layer)
        if known is None or not _are_alike(known[0], query):
            with torch.inference_mode(False):  # so that steps outside that mode can write to them
                known = self._space[layer] = query.new_empty(STEPS, *query.shape).unbind()
        return known

    def _hold(self, held: _Layer, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        held.key = key
        held.queries[len(held.steps)].copy_(query)
        held.masks.append(mask)
        held.steps.append(self._step)
        held.counts.append(self._length)

    def end_step(self) -> None:
        """Finish if as many steps are held as may be.

        Raises:
            RecordingError: the cache was changed in place.
            ModelError: logits are not finite.
        """
        if any(len(held.steps) >= self._limit for held in self._held.values()):
            self.finish()

    def finish(self) -> None:
        """Compute and pass on the rows of all held steps.

        Raises:
            RecordingError: the cache was changed in place.
            ModelError: logits are not finite.
        """
        held, self._held = self._held, {}
        alike: dict[tuple[object, ...], dict[int, _Layer]] = {}
        for layer, one in held.items():
            _refuse_changed(layer, one)
            alike.setdefault((one.key.device, one.key.is_inference(), *one.steps, *one.key.shape), {})[layer] = one
        for layers in alike.values():
            inference = next(iter(layers.values())).key.is_inference()
            # The block may end outside the mode in which the model ran.
            with torch.inference_mode() if inference else torch.no_grad():
                self._finish(layers)

    def _finish(self, held: dict[int, _Layer]) -> None:
        """Compute the rows of layers with equal steps and shapes on one device."""
        layers, ones, first = tuple(held), list(held.values()), next(iter(held.values()))
        device = first.key.device
        batch, heads = first.queries[0].shape[:2]
        size = (batch, heads, len(first.steps), first.key.shape[2])
        later = _later(first.counts, device)
        at_once = max(1, (CACHED_BYTES if device.type == "cpu" else WORKING_BYTES) // (8 * math.prod(size)))
        at_once = min(at_once, len(ones))
        # Both tensors are written again for every part: new memory costs more than the arithmetic.
        values = torch.empty(at_once, *size, dtype=torch.float32, device=device)
        weights = torch.empty(len(ones) if self._axes.keeps_all else at_once, *size, device=device)
        parts: list[list[Tensor]] = []
        differences: list[Tensor] = []
        for start in range(0, len(ones), at_once):
            part = ones[start : start + at_once]
            logits = values[: len(part)]
            differences += _write(logits, part)
            logits[..., first.counts[0] :] += later
            target = weights[start : start + len(part)] if self._axes.keeps_all else weights[: len(part)]
            softmax_(logits, target)
            if not self._axes.keeps_all:
                parts.append(self._axes(target))
        if differences:
            _refuse_differing(layers, first.key.dtype, torch.stack(differences).tolist())
        for element in range(batch):
            rows = weights[:, element] if self._axes.keeps_all else self._joined([part[element] for part in parts])
            for index, (step, count) in enumerate(zip(first.steps, first.counts, strict=True)):
                self._keep(step, layers, element, rows[:, :, index : index + 1, :count])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Join [l, H, n, C] of parts of the layers."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts).sum(dim=0, keepdim=True) if self._axes.reduces_layers else torch.cat(parts)

    def _has(self, layer: int, key: Tensor) -> bool:
        """Whether the cache holds this very tensor, and will leave it as it is when it grows."""
        if layer >= len(self._cached):
            return False
        own = self._cached[layer]
        return grows_by_copy(own) and own.keys is key

    def _mask(self, call: AttentionCall) -> Tensor | None:
        """Compute the additive mask of a step once for all layers that share it."""
        if call.mask is None and call.window is None:
            return None  # the newest token sees every key
        name = (id(call.mask), call.window, call.causal)
        if name not in self._masks:
            located = call.changed(query_offset=self._length - 1)
            row = torch.zeros(1, dtype=torch.int64, device=call.query.device)
            self._masks[name] = (call, mask_rows(located, row))
        return self._masks[name][1]


def _step_limit(call: AttentionCall) -> int:
    """Return how many steps of a layer fit `WORKING_BYTES` as logits and weights; at most `STEPS`."""
    each = call.query[..., 0].numel() * (call.key_count + STEPS) * 4 * 2
    return min(STEPS, WORKING_BYTES // each)


def _was_changed(tensor: Tensor) -> bool:
    """Whether a tensor was changed in place since it was made; False in inference mode, where torch does not count."""
    return not tensor.is_inference() and tensor._version > 0


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _refuse_changed(layer: int, held: _Layer) -> None:
    if _was_changed(held.key):
        raise RecordingError(_changed(layer))


def _refuse_differing(layers: Sequence[int], dtype: torch.dtype, differences: Sequence[float]) -> None:
    for layer, difference in zip(layers, differences, strict=True):
        if not math.isfinite(difference):
            raise overflow(f"the attention of layer {layer}", dtype)
        if difference > LOGIT_TOLERANCE:
            raise RecordingError(_changed(layer))


def _changed(layer: int) -> str:
    return (
        f"the keys of layer {layer} were changed in place in the cache between decode steps, whose rows are computed "
        "several at a time: put new tensors into the cache in place of writing into its own, or record with on_step, "
        "for which every row is computed at once"
    )


def _logits_of_first_heads(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return the logits [B, H/G, K] of the first query head of each key head."""
    chosen = query[:, :: query.shape[1] // key.shape[1]]
    logits = torch.empty(*chosen.shape[:2], key.shape[2], dtype=torch.float32, device=query.device)
    write_logits(logits, chosen, key, scale)
    return logits


def _write(out: Tensor, held: Sequence[_Layer]) -> list[Tensor]:
    """Write the masked logits [l, B, H, n, W] of layers with equal steps.

    Returns:
        Per layer with `first`, the largest difference from it over its largest value, as a scalar tensor.
    """
    differences = []
    for logits, one in zip(out, held, strict=True):
        write_logits(logits, torch.cat(one.queries[: len(one.steps)], dim=2), one.key, one.scale)
        if one.first is not None:
            chosen = logits[:, :: logits.shape[1] // one.first.shape[1], 0, : one.counts[0]]
            difference = (chosen - one.first).abs_().amax()
            differences.append(difference / one.first.abs().amax().clamp(min=torch.finfo(torch.float32).tiny))
        if one.softcap is not None:
            logits.div_(one.softcap).tanh_().mul_(one.softcap)
        for index, (mask, count) in enumerate(zip(one.masks, one.counts, strict=True)):
            if mask is not None:
                logits[:, :, index, :count] += mask[:, :, 0]
    return differences


def _later(counts: list[int], device: torch.device) -> Tensor:
    """Return [n, W - K] with minus infinity at the keys that came after each step, of those after the oldest's K."""
    keys = torch.arange(counts[0], counts[-1])
    hidden = keys >= torch.tensor(counts)[:, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf).to(device)
