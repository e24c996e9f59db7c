"""A modulation at work in one generation: head strengths, key masks and rows of every call it changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounding.attention.edits import AttentionEdit, RowEdit
from grounding.attention.rows import AttentionCall
from grounding.attention.turn import weight_rows
from grounding.steering.base import GenerationContext
from grounding.steering.seam import Pass, beams_of
from grounding.steering.sinks import SinkMemory
from grounding.types import TokenLayout

if TYPE_CHECKING:
    from grounding.steering.modulation import Modulation

_KEYS_AHEAD = 256  # every key to come is text, so changes of rows that it is alike for can be made for so many at once


@dataclass(frozen=True)
class KeyMasks:
    """What a form is told about the rows it changes; R of them, of B = elements times beams sequences.

    Attributes:
        layer: the decoder layer.
        strength: [B or 1, H, 1, 1] float32, head strengths in [0, 1] times the schedule's.
        heads: [H'] int64, heads whose strength is above 0 in any sequence.
        keys: [B, 1, 1, K] bool, the chosen image keys.
        image: [B, 1, 1, K] bool, all image keys.
        text: [B, 1, 1, K] bool, keys after the image: instruction and generated tokens.
        sinks: [B, 1, 1, K] bool, sinks of the prompt, where the form looks for them.
    """

    layer: int
    strength: Tensor
    heads: Tensor
    keys: Tensor
    image: Tensor
    text: Tensor
    sinks: Tensor | None


@dataclass(frozen=True)
class _CachedEdit:
    """A change made for keys to come: for so many sequences, up to so many keys, at one strength of the schedule."""

    rows: int
    keys: int
    scale: float
    turned: AttentionEdit

    def serves(self, call: AttentionCall, scale: float) -> bool:
        return self.rows == call.query.shape[0] and self.keys >= call.key_count and self.scale == scale


class ModulationEditor:
    """Implements `seam.Editor` for one modulation and one generation.

    Args:
        form: the modulation.
        context: the generation.
    """

    def __init__(self, form: Modulation, context: GenerationContext) -> None:
        vlm = context.vlm
        self._form = form
        self._segments: Sequence[TokenLayout] = context.prepared.layouts
        chosen = form.layers.chosen(vlm.layer_count)
        self._static = form.heads.strengths(chosen, vlm.layer_count, vlm.head_count)
        if not form.heads.on_the_fly:
            chosen = tuple(i for i in chosen if self._static[i].any())
        self._found: dict[int, Tensor] = {}  # layer → [elements, H], where measured on the fly
        self._image = [torch.from_numpy(segment.image) for segment in self._segments]
        self._chosen = [torch.from_numpy(positions) for positions in form.key_positions(context)]
        self._masks: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        starts = {
            "none": [s.length for s in self._segments],
            "last": [s.length - 1 for s in self._segments],
            "text": [int(s.image.max()) + 1 for s in self._segments],
            "all": [s.padding for s in self._segments],
        }
        self._starts = torch.tensor(starts[form.prefill])  # [elements] the first position whose row is changed
        self._first = min(starts[form.prefill])
        self._acting = {i for i in chosen if not form.heads.on_the_fly}
        self._ahead: dict[int, _CachedEdit] = {}
        active = not form.is_idle
        self.layers: Collection[int] = chosen if active and not form.gates_outputs else ()
        self.gate_layers: Collection[int] = chosen if active and form.gates_outputs else ()
        measures = form.heads.on_the_fly and form.heads.measure == "image"
        self._for_heads = SinkMemory(self._segments, form.heads.sink_tau) if measures else None
        self._for_form = form.sink_memory(self._segments)
        watched = measures or self._for_form is not None
        self.residual_layers: Collection[int] = self.layers if watched else ()

    def residual(self, layer: int, hidden: Tensor, running: Pass) -> None:
        """Look for sinks."""
        for memory in (self._for_heads, self._for_form):
            if memory is not None:
                memory.look(layer, hidden, running)

    def change(self, layer: int, call: AttentionCall, running: Pass) -> RowEdit | None:
        """The form's change of the rows it is for."""
        form = self._form
        first = running.first_query(self._first)
        if form.heads.on_the_fly and running.step == 0:
            self._measure(layer, call, running)
        strength = form.schedule.strength(running.step)
        if first is None or strength == 0 or layer not in self._acting:
            return None
        if running.step > 0 and form.is_fixed:
            return RowEdit(first, self._made_ahead(layer, call, strength).up_to(call.key_count))
        place = self._place(layer, call, call.key_count, strength)
        if running.step > 0 or form.prefill != "text":
            return RowEdit(first, lambda earlier, rows: form.turned(place, earlier, rows))
        starts = self._starts.to(call.query.device)
        starts = starts.repeat_interleave(beams_of(call.query.shape[0], len(self._segments)))

        def turned(earlier: AttentionCall, rows: Tensor) -> AttentionEdit:
            found = form.turned(place, earlier, rows)
            mine = (rows + running.past)[None, :] >= starts[:, None]  # [B, R]
            mine = mine[:, None, :, None]
            bias = None if found.bias is None else torch.where(mine, found.bias, 0.0)
            factor = None
            if found.factor is not None:
                factor = (found.factor[0], torch.where(mine, found.factor[1], 1.0))
            return AttentionEdit(bias, factor)

        return RowEdit(first, turned)

    def gates(self, layer: int, running: Pass) -> Tensor | None:
        """Factors of a form that multiplies heads' outputs."""
        strength = self._form.schedule.strength(running.step)
        return self._form.gates(self._static[layer] * strength) if strength and layer in self._acting else None

    def gated_from(self, running: Pass) -> Tensor:
        """The first gated position of each element."""
        return self._starts

    def _measure(self, layer: int, call: AttentionCall, running: Pass) -> None:
        """Head strengths from the last prompt row, once it is read."""
        last = running.first_query(running.prompt - 1)
        if last is None:
            return
        _, image, text = self._key_masks(call, call.key_count)
        wanted = image
        if self._for_heads is not None:
            wanted = image & ~self._for_heads.of(layer, call.query.shape[0], call.key_count)
        elif self._form.heads.measure == "text":
            wanted = text
        weights = weight_rows(call, torch.tensor([last], device=call.query.device))[:, :, 0]  # [B, H, K]
        mass = (weights * wanted[:, 0]).sum(-1)
        beams = beams_of(len(mass), len(self._segments))
        self._found[layer] = self._form.heads.by_rule(mass[::beams])
        if bool(self._found[layer].any()):
            self._acting.add(layer)

    def _made_ahead(self, layer: int, call: AttentionCall, scale: float) -> AttentionEdit:
        """The change of rows of generated tokens for more keys than there are yet, so that most steps find it made."""
        known = self._ahead.get(layer)
        if known is None or not known.serves(call, scale):
            keys = call.key_count + _KEYS_AHEAD
            turned = self._form.turned(self._place(layer, call, keys, scale), call, torch.zeros(1, dtype=torch.int64))
            known = self._ahead[layer] = _CachedEdit(call.query.shape[0], keys, scale, turned)
        return known.turned

    def _place(self, layer: int, call: AttentionCall, count: int, scale: float) -> KeyMasks:
        keys, image, text = self._key_masks(call, count)
        rows = call.query.shape[0]
        if self._form.heads.on_the_fly:
            strength = self._found[layer].repeat_interleave(beams_of(rows, len(self._segments)), dim=0)
        else:
            strength = self._static[layer][None].to(call.query.device)
        heads = strength.gt(0).any(0).nonzero()[:, 0]
        sinks = self._for_form.of(layer, rows, count) if self._for_form is not None else None
        return KeyMasks(layer, strength[:, :, None, None] * scale, heads, keys, image, text, sinks)

    def _key_masks(self, call: AttentionCall, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = call.query.shape[0]
        known = self._masks.get((rows, keys))
        if known is None:
            self._masks.clear()  # the next step has one key more
            beams, device = beams_of(rows, len(self._segments)), call.query.device
            masks = torch.zeros(3, len(self._segments), keys, dtype=torch.bool)
            for element, (chosen, image) in enumerate(zip(self._chosen, self._image, strict=True)):
                masks[0, element, chosen] = True
                masks[1, element, image] = True
                masks[2, element, int(image.max()) + 1 :] = True
            spread = masks.to(device).repeat_interleave(beams, dim=1)[:, :, None, None]
            known = (spread[0], spread[1], spread[2])
            self._masks[rows, keys] = known
        return known
