"""Compute the rows of several generated tokens at once, up to `STEPS` steps after they were read.

A cache that grows by copying leaves the keys of a step a prefix of the keys of every later step. Then the queries of
several steps, held until their end, give all their rows in one product per layer: the keys are read once for all steps,
and mask, softmax, chosen heads and columns, and means run once for all steps. Held are copies of the queries and,
between passes, the newest keys, which the cache holds anyway.

A cache that is cropped, reordered or replaced between two steps gets new tensors; the rows are then computed of the old
ones. A change in place is refused; see `grounding.attention.held_steps`.

Shape letters as in `grounding.attention.rows`; l layers of one batch of rows, n held steps, W keys of the newest step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.held_steps import CallKind, HeldSteps, copy_newest, later_keys, refuse_differing, was_changed
from grounding.attention.kept_axes import KeptAxes
from grounding.attention.request import RowRequest
from grounding.attention.rows import WORKING_BYTES, mask_rows, softmax_
from grounding.attention.step_copies import StepCopies
from grounding.compat import grows_by_copy

STEPS = 32
"""Largest number of steps whose rows are computed together (our choice): more gain little."""

COPIED_STEPS = 4
"""Number of steps after which queries, and keys to compare with, are copied together (our choice)."""

CACHED_BYTES = 2 << 20
"""Bytes of logits and weights computed at once on a CPU, so that they stay in its cache (our choice)."""

Keep = Callable[[int, Sequence[int], int, Tensor], None]
"""Receives the step, the layers, the batch element and their rows [l, H, 1, C]; reduced axes are 1."""


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
        self._held: dict[int, HeldSteps] = {}
        self._kinds: dict[int, CallKind] = {}  # of each layer's last described call
        self._copies: dict[tuple[object, ...], tuple[StepCopies, StepCopies]] = {}  # by the sizes of layers
        self._uncopied = 0  # steps
        self._limit = STEPS
        self._is_full = False  # whether a layer holds that many
        self._cached: dict[int, Any] = {}  # layers of the cache
        self._step = self._length = 0
        self._masks: dict[tuple[object, ...], tuple[Tensor | None, Tensor | None]] = {}  # given, additive; of one step

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
        self._cached = {} if cache is None or offloads else dict(enumerate(getattr(cache, "layers", ())))
        self._step, self._length = step, length
        self._masks.clear()
        is_kept = True
        for layer, held in self._held.items():
            if held.first is None:  # torch counts changes
                held.refuse_changed(layer)
            cached = self._cached.get(layer)
            if cached is None or cached is not held.cached or cached.keys is not held.key:
                is_kept = False
        if not is_kept:
            self.finish()
        for held in self._held.values():
            held.newest = None

    def add(self, layer: int, call: AttentionCall) -> bool:
        """Hold a layer's call of one query; return False where its row must be computed at once.

        Args:
            layer: the decoder layer.
            call: its call.
        """
        if call.edits or call.bias is not None or call.sink_logits is not None or call.key_count != self._length:
            if layer in self._held:
                self._held[layer].end(layer, call.key)
            return False
        kind = CallKind.of(call, self._copies_of(call))
        if not self.hold(layer, kind, call.query, call.key, call):
            return False
        if call.mask is None and call.window is None and call.options:
            self._kinds[layer] = kind
        else:
            self._kinds.pop(layer, None)
        return True

    @property
    def expects_repeated(self) -> bool:
        """Whether calls of the current pass may be like the last ones of their layers, and be held."""
        return bool(self._kinds and self._cached)

    def repeated(self, layer: int, options: tuple[object, ...]) -> CallKind | None:
        """Return the kind of a layer's last described call, if a call without a mask and with these options is alike.

        Args:
            layer: the decoder layer.
            options: see `AttentionCall.options`.
        """
        kind = self._kinds.get(layer)
        # A tensor has no truth value to compare by; equal numbers of one module are one object.
        return kind if kind is not None and all(map(is_, options, kind.options)) else None

    def hold(
        self,
        layer: int,
        kind: CallKind,
        query: Tensor,
        key: Tensor,
        call: AttentionCall | None = None,
    ) -> bool:
        """Hold a call; return False where its row must be computed at once.

        Args:
            layer: the decoder layer.
            kind: of the call.
            query: [B, H, 1, D].
            key: [B, H/G, K, D].
            call: the described call, whose mask hides keys; None where the query sees every key.
        """
        query, held = query.detach() if query.requires_grad else query, self._held.get(layer)
        if held is None:
            held = self._begun(layer, kind, query, key)
        elif not (held.continues(kind, key) and _has(held.cached, key)):
            held.end(layer, key)
            held = None
        if held is None:
            return False
        held.kind = kind
        held.add(self._step, self._length, query, key, None if call is None else self._mask(call))
        self._is_full = self._is_full or len(held.steps) == self._limit
        return True

    def end_step(self) -> None:
        """Finish if as many steps are held as may be, and now and then copy what the newest steps' rows need.

        Raises:
            RecordingError: the cache was changed in place.
            ModelError: logits are not finite.
        """
        self._masks.clear()
        if self._is_full:
            self.finish()
            return
        self._uncopied += 1
        if self._uncopied == COPIED_STEPS:
            copy_newest(self._held.values())
            self._uncopied = 0

    def finish(self) -> None:
        """Compute and pass on the rows of all held steps.

        Raises:
            RecordingError: the cache was changed in place.
            ModelError: logits are not finite.
        """
        held, self._held, self._is_full = self._held, {}, False
        self._uncopied = 0
        finished = []
        alike: dict[tuple[object, ...], dict[int, HeldSteps]] = {}
        for layer, one in held.items():
            one.refuse_changed(layer)
            name = (one.key.device, one.key.is_inference(), *one.steps, *one.key.shape)
            alike.setdefault(name, {})[layer] = one
        for layers in alike.values():
            first = next(iter(layers.values()))
            # The block may end outside the mode in which the model ran.
            with torch.inference_mode() if first.key.is_inference() else torch.no_grad():
                finished.append(_Rows(self._axes, layers))
        for rows in finished:
            rows.pass_on(self._keep)
        for queries, keys in self._copies.values():
            queries.restart()
            keys.restart()

    def _begun(self, layer: int, kind: CallKind, query: Tensor, key: Tensor) -> HeldSteps | None:
        """Begin to hold a layer's steps; None where its keys may change or there is no space for two."""
        self._limit = _step_limit(query, key)
        cached, is_whole = self._cached.get(layer), query.shape == kind.size and key.shape[2] == self._length
        if self._limit < 2 or not (is_whole and grows_by_copy(cached) and _has(cached, key)):
            return None
        held = self._held[layer] = HeldSteps.of(kind, query, key, cached)
        return held

    def _copies_of(self, call: AttentionCall) -> tuple[StepCopies, StepCopies]:
        """Return where queries and own keys of a call's layer are copied to, shared by layers of its sizes."""
        query, key = call.query, call.key
        name = (query.shape, query.dtype, key.shape[1], key.dtype, query.device)
        return self._copies.setdefault(name, (StepCopies(), StepCopies()))

    def _mask(self, call: AttentionCall) -> Tensor | None:
        """Compute the additive mask of a step once for all layers that share it."""
        if call.mask is None and call.window is None:
            return None  # the newest token sees every key
        name = (id(call.mask), call.window, call.causal)
        if name not in self._masks:
            located = call.changed(query_offset=self._length - 1)
            row = torch.zeros(1, dtype=torch.int64, device=call.query.device)
            self._masks[name] = (call.mask, mask_rows(located, row))  # the mask is kept, so that its id is its own
        return self._masks[name][1]


class _Rows:
    """The rows of layers that hold the same steps.

    Args:
        axes: what of them is kept.
        held: the layers.
    """

    def __init__(self, axes: KeptAxes, held: dict[int, HeldSteps]) -> None:
        ones = list(held.values())
        self._layers = list(held)
        self._steps, self._counts, size = ones[0].steps, ones[0].counts, ones[0].size
        self._dtype, self._device = ones[0].key.dtype, ones[0].key.device
        bytes_ = CACHED_BYTES if self._device.type == "cpu" else WORKING_BYTES
        at_once = min(max(1, bytes_ // (8 * math.prod(size))), len(ones))
        # Both tensors are written again for every part: new memory costs more than the arithmetic.
        values = torch.empty(at_once, *size, dtype=torch.float32, device=self._device)
        if axes.keeps_all:
            space = torch.empty(len(ones), *size, dtype=torch.float32, device=self._device)
            self._kept = list(space.unbind(1))
        else:
            space = torch.empty_like(values)
            self._kept = axes.space((len(ones), *size), self._device)
        later = later_keys(self._counts, self._device)
        self._differences: list[Tensor] = []
        for start in range(0, len(ones), at_once):
            part = ones[start : start + at_once]
            logits, slots = values[: len(part)], slice(start, start + len(part))
            differences = [one.write_logits(own, later) for one, own in zip(part, logits, strict=True)]
            self._differences += [difference for difference in differences if difference is not None]
            if axes.keeps_all:
                softmax_(logits, space[slots])
            else:
                axes.write(self._kept, slots, softmax_(logits, space[: len(part)]))

    def pass_on(self, keep: Keep) -> None:
        """Pass on the rows of every step and batch element.

        Raises:
            RecordingError: the cache was changed in place.
            ModelError: logits are not finite.
        """
        if self._differences:
            refuse_differing(self._layers, self._dtype, self._device, torch.stack(self._differences).tolist())
        for element, kept in enumerate(self._kept):
            for index, (step, count) in enumerate(zip(self._steps, self._counts, strict=True)):
                keep(step, self._layers, element, kept[:, :, index : index + 1, :count])


def _has(cached: Any, key: Tensor) -> bool:
    """Whether a layer of the cache holds this very tensor, which nothing has changed."""
    return cached.keys is key and not was_changed(key)


def _step_limit(query: Tensor, key: Tensor) -> int:
    """Return how many steps of a layer fit `WORKING_BYTES` as logits and weights; at most `STEPS`."""
    each = query.shape[0] * query.shape[1] * (key.shape[2] + STEPS) * 4 * 2
    return min(STEPS, WORKING_BYTES // each)
