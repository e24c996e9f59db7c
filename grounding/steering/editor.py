"""Compute the edits of one generation from a modulation: head strengths, key masks and rows of every call."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.rows import weight_rows
from grounding.errors import MethodError
from grounding.layout import TokenLayout
from grounding.steering.apply import GenerationPass, apply, beams_of
from grounding.steering.base import GenerateOverrides, GenerationContext, Intervention
from grounding.steering.modulation import KeyMasks, Modulation
from grounding.steering.sinks import SinkMemory

_SPARE_KEYS = 256
"""Number of future keys that a cached edit covers; generated keys are all text, so their masks are known."""


@dataclass(frozen=True)
class _CachedEdit:
    """Hold an edit of one row that is valid for `rows` sequences and up to `keys` keys at one schedule strength."""

    rows: int
    keys: int
    scale: float
    edit: RowEdit

    def serves(self, call: AttentionCall, scale: float) -> bool:
        return self.rows == call.query.shape[0] and self.keys >= call.key_count and self.scale == scale


class ModulationEditor:
    """Implement `Editor` for one modulation in one generation.

    Args:
        modulation: the edit and the keys, heads and layers it applies to.
        context: the generation.

    Raises:
        MethodError: the modulation's layers, heads or tokens do not fit the model.
    """

    def __init__(self, modulation: Modulation, context: GenerationContext) -> None:
        vlm = context.vlm
        self._modulation = modulation
        self._layouts: Sequence[TokenLayout] = context.prepared.layouts
        attention = modulation.attention(vlm)
        self._crosses = attention == "cross"
        chosen = vlm.with_rows(modulation.layers.chosen(vlm.layer_count), attention)
        self._static = modulation.heads.strengths(chosen, vlm.layer_count, vlm.head_count)
        if not modulation.heads.on_the_fly:
            chosen = tuple(i for i in chosen if self._static[i].any())
        self._measured: dict[int, Tensor] = {}  # layer → [B, H], where measured during prefill
        image = [layout.keys if self._crosses else layout.image for layout in self._layouts]
        self._image = [torch.from_numpy(keys) for keys in image]
        self._chosen = [torch.from_numpy(positions) for positions in modulation.key_positions(context)]
        self._masks: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        starts = {
            "none": [s.length for s in self._layouts],
            "last": [s.length - 1 for s in self._layouts],
            "text": [int(s.image.max()) + 1 for s in self._layouts],
            "all": [s.padding for s in self._layouts],
        }
        self._starts = torch.tensor(starts[modulation.prefill])  # [B] the first position whose row is edited
        self._first = min(starts[modulation.prefill])
        self._acting = {i for i in chosen if not modulation.heads.on_the_fly}
        self._cache: dict[int, _CachedEdit] = {}
        active = not modulation.is_idle
        self.layers: Collection[int] = chosen if active and not modulation.gates_outputs else ()
        self.gate_layers: Collection[int] = chosen if active and modulation.gates_outputs else ()
        measures = modulation.heads.on_the_fly and modulation.heads.measure == "mass"
        self._head_sinks = SinkMemory(self._layouts, modulation.heads.sink_rule) if measures else None
        self._sinks = modulation.sink_memory(self._layouts)
        watched = measures or self._sinks is not None
        self.residual_layers: Collection[int] = self.layers if watched else ()

    def residual(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """Find the layer's sinks in its input [rows, Q, E]."""
        for memory in (self._head_sinks, self._sinks):
            if memory is not None:
                memory.find(layer, hidden, running)

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        """Return the modulation's edit of a call; None where no row of it is edited."""
        modulation = self._modulation
        first = running.first_query(self._first)
        if modulation.heads.on_the_fly and running.step == 0:
            if first is not None and running.past + running.queries < running.prompt:
                raise MethodError(
                    f"{modulation.name} measures its heads at the prompt's last row, but edits earlier rows "
                    f"(prefill: {modulation.prefill}) and the prompt is read in pieces: read it in one pass"
                )
            self._measure(layer, call, running)
        strength = self._strength(running)
        if first is None or strength == 0 or layer not in self._acting:
            return None
        if running.step > 0 and modulation.is_fixed:
            return self._cached(layer, call, strength, first)
        masks = self._masks_of(layer, call, call.key_count, strength)
        if running.step > 0 or modulation.prefill != "text":
            return RowEdit(first, lambda earlier, rows: modulation.edit(masks, earlier, rows))
        starts = self._starts.to(call.query.device)
        starts = starts.repeat_interleave(beams_of(call.query.shape[0], len(self._layouts)))

        def edit(earlier: AttentionCall, rows: Tensor) -> AttentionEdit:
            found = modulation.edit(masks, earlier, rows)
            edited = (rows + running.past)[None, :] >= starts[:, None]  # [rows of the batch, R]
            edited = edited[:, None, :, None]
            bias = None if found.logit_bias is None else torch.where(edited, found.logit_bias, 0.0)
            scale = None
            if found.weight_scale is not None:
                scale = (found.weight_scale[0], torch.where(edited, found.weight_scale[1], 1.0))
            return AttentionEdit(bias, scale)

        return RowEdit(first, edit)

    def gates(self, layer: int, running: GenerationPass) -> Tensor | None:
        """Return [H] factors where the modulation multiplies heads' outputs; None where it is inactive."""
        strength = self._strength(running)
        return self._modulation.gates(self._static[layer] * strength) if strength and layer in self._acting else None

    def gated_from(self, running: GenerationPass) -> Tensor:
        """Return [B] int64, the first gated position of each element."""
        return self._starts

    def _strength(self, running: GenerationPass) -> float:
        """Return the schedule's strength at the pass's step.

        Raises:
            MethodError: the pass reads tokens of several steps, whose strengths differ.
        """
        schedule = self._modulation.schedule
        if running.last_step > running.step and schedule.kind != "constant":
            raise MethodError(
                f"the schedule {schedule.kind!r} of {self._modulation.name} sets a strength per step, but one pass "
                f"reads the tokens of steps {running.step} to {running.last_step}: generate with use_cache=True and "
                "without assisted generation or prompt lookup"
            )
        return schedule.strength(running.step)

    def _measure(self, layer: int, call: AttentionCall, running: GenerationPass) -> None:
        """Compute head strengths from the last prompt row, in the pass that reads it."""
        last = running.first_query(running.prompt - 1)
        if last is None:
            return
        _, image, text = self._key_masks(call, call.key_count)
        wanted = image
        if self._head_sinks is not None:
            wanted = image & ~self._head_sinks.of(layer, call.query.shape[0], call.key_count)
        elif self._modulation.heads.measure == "text":
            wanted = text
        weights = weight_rows(call, torch.tensor([last], device=call.query.device))[:, :, 0]  # [B, H, K]
        mass = (weights * wanted[:, 0]).sum(-1)
        beams = beams_of(len(mass), len(self._layouts))
        self._measured[layer] = self._modulation.heads.by_rule(mass[::beams])
        if bool(self._measured[layer].any()):
            self._acting.add(layer)

    def _cached(self, layer: int, call: AttentionCall, scale: float, first: int) -> RowEdit:
        """Return the edit of generated tokens from query `first` on.

        It is computed for `_SPARE_KEYS` future keys, and the same object is returned until the keys exceed them.
        """
        known = self._cache.get(layer)
        if known is None or not known.serves(call, scale):
            # Kernels on accelerators copy a mask whose rows are not aligned to 8 entries.
            keys = math.ceil((call.key_count + _SPARE_KEYS) / 8) * 8
            masks = self._masks_of(layer, call, keys, scale)
            edit = self._modulation.edit(masks, call, torch.zeros(1, dtype=torch.int64))
            known = self._cache[layer] = _CachedEdit(call.query.shape[0], keys, scale, RowEdit(0, edit))
        return known.edit if first == 0 else RowEdit(first, known.edit.edit)

    def _masks_of(self, layer: int, call: AttentionCall, count: int, scale: float) -> KeyMasks:
        keys, image, text = self._key_masks(call, count)
        rows = call.query.shape[0]
        if self._modulation.heads.on_the_fly:
            strength = self._measured[layer].repeat_interleave(beams_of(rows, len(self._layouts)), dim=0)
        else:
            strength = self._static[layer][None].to(call.query.device)
        heads = strength.gt(0).any(0).nonzero()[:, 0]
        sinks = self._sinks.of(layer, rows, count) if self._sinks is not None else None
        return KeyMasks(layer, strength[:, :, None, None] * scale, heads, keys, image, text, sinks)

    def _key_masks(self, call: AttentionCall, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = call.query.shape[0]
        known = self._masks.get((rows, keys))
        if known is None:
            self._masks.clear()  # keys only grow, so earlier masks are not needed again
            beams, device = beams_of(rows, len(self._layouts)), call.query.device
            masks = torch.zeros(3, len(self._layouts), keys, dtype=torch.bool)
            for element, (chosen, image) in enumerate(zip(self._chosen, self._image, strict=True)):
                # A prompt in pieces is read up to some of its image keys.
                masks[0, element, chosen[chosen < keys]] = True
                masks[1, element, image[image < keys]] = True
                masks[2, element, int(image.max()) + 1 :] = not self._crosses  # there no key is of the text
            spread = masks.to(device).repeat_interleave(beams, dim=1)[:, :, None, None]
            known = (spread[0], spread[1], spread[2])
            self._masks[rows, keys] = known
        return known


def applied(step: Modulation | Intervention, context: GenerationContext) -> AbstractContextManager[GenerateOverrides]:
    """Apply one step of a steering method to one generation inside the block.

    Args:
        step: a modulation, or any other step.
        context: the generation.

    Returns:
        A context manager that yields the step's overrides of `generate`.

    Raises:
        MethodError: the step does not fit the model or the way of decoding.
        RecordingError: the model's attention calls cannot be edited.
    """
    return _modulated(step, context) if isinstance(step, Modulation) else step.applied(context)


@contextmanager
def _modulated(modulation: Modulation, context: GenerationContext) -> Iterator[GenerateOverrides]:
    modulation.check(context.vlm)
    editor = ModulationEditor(modulation, context)
    if not editor.layers and not editor.gate_layers:
        yield GenerateOverrides()
        return
    with apply(context.vlm.model, editor, context.prepared.length, len(context.prepared)):
        # With a static cache, `generate` compiles the model, and compiled calls cannot be edited.
        yield GenerateOverrides(options={"disable_compile": True})
