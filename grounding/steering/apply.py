"""Apply an editor to the decoder for one generation: follow its passes and edit its attention calls.

Shape letters: B prompts of the batch, Q queries of this pass, H query heads, E residual width, Dv value width; `rows`
is the model's batch, B times beams.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.coverage import cross_layers, refuse_other_keys
from grounding.attention.events import Pass, Scope, Subscriber
from grounding.attention.generation import Prompt
from grounding.attention.intercept import intercept
from grounding.attention.introspect import decoder_stack
from grounding.errors import MethodError


@dataclass(frozen=True)
class GenerationPass:
    """Locate one run of the decoder within a generation.

    Attributes:
        past: positions in the key/value cache before the pass.
        queries: Q, new positions that the pass reads.
        prompt: N, the prompt's length in positions, padding included.
    """

    past: int
    queries: int
    prompt: int

    @property
    def step(self) -> int:
        """0 while the prompt is read; t in the pass whose first query is the t-th generated token."""
        return max(self.past - self.prompt + 1, 0)

    @property
    def last_step(self) -> int:
        """The step of the pass's last query; above `step` where one pass reads several generated tokens."""
        return max(self.past + self.queries - self.prompt, 0)

    def first_query(self, position: int) -> int | None:
        """Index of the first query at or after a sequence position; None if all queries are before it."""
        index = max(position - self.past, 0)
        return index if index < self.queries else None


class Editor(Protocol):
    """Decide the edits of one generation."""

    layers: Collection[int]
    """Decoder layers whose attention calls may be edited."""

    residual_layers: Collection[int]
    """Decoder layers whose input is passed to `residual` while the prompt is read."""

    gate_layers: Collection[int]
    """Decoder layers whose heads' outputs are multiplied."""

    def residual(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """Receive the input [rows, Q, E] of a layer, before its attention, while the prompt is read."""

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        """Return the edit of a layer's attention call; None keeps the kernel's output, bit for bit."""

    def gates(self, layer: int, running: GenerationPass) -> Tensor | None:
        """Return [H] factors on the heads' outputs in this pass; None keeps them, bit for bit."""

    def gated_from(self, running: GenerationPass) -> Tensor:
        """Return [B] int64, the first sequence position of each element whose query is gated."""


def beams_of(rows: int, elements: int) -> int:
    """Return the number of beams per element; row r belongs to element r // beams, also after reordering.

    Args:
        rows: sequences that the model runs.
        elements: B.

    Raises:
        MethodError: `rows` is not a multiple of `elements`.
    """
    if rows % elements:
        raise MethodError(
            f"the model runs {rows} sequences for {elements} prompts: expected the same number of beams or samples per "
            "prompt; leave other batches alone with grounding.attention.events.without_edits()"
        )
    return rows // elements


class SteeringHooks(Subscriber):
    """Connect one editor to the attention events of one decoder, for one generation.

    Args:
        editor: decides the edits.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.
        crossing: the layers of cross-attention, whose keys are no positions.
    """

    def __init__(self, editor: Editor, prompt: int, elements: int, crossing: Collection[int] = ()) -> None:
        self.editor = editor
        self._crossing = crossing
        self._prompt = prompt
        self._elements = elements
        self._running: GenerationPass | None = None
        self._cache: Any = None
        self._sums: dict[int, tuple[RowEdit, RowEdit, RowEdit]] = {}  # layer → an earlier edit, this one, their sum

    def begin_generation(self, prompt: Prompt) -> None:
        """Check that the prompts are those that steering was started for.

        Raises:
            MethodError: their number or length differs.
        """
        if (prompt.batch, prompt.length) != (self._elements, self._prompt):
            raise MethodError(
                f"steering was started for {self._elements} prompts of {self._prompt} positions, but {prompt.batch} of "
                f"{prompt.length} are generated from: start it for these, and let generate repeat them for beams"
            )

    def begin_pass(self, running: Pass) -> None:
        """Record which pass of the generation runs.

        Raises:
            MethodError: the batch or the order of passes does not fit the prompts.
        """
        self._cache = running.cache
        if running.queries is None:
            return
        if running.past == 0 and running.inputs is not None:
            self._refuse_mixed(running.inputs)
        elif self._running is not None and running.queries == 1 and running.past + 1 < self._prompt:
            raise MethodError(
                f"one token is read at position {running.past}, where steering was started for a prompt of "
                f"{self._prompt} positions: start it for the prompt that is read"
            )
        self.set_pass(running.past, running.queries)

    def _refuse_mixed(self, inputs: Mapping[str, Any]) -> None:
        """Refuse a batch whose copies of one prompt (beams, samples) do not stand next to each other."""
        read = inputs.get("inputs_embeds")
        read = read if read is not None else inputs.get("input_ids")
        if not isinstance(read, Tensor) or self._elements == 1 or len(read) == self._elements:
            return
        copies = read.unflatten(0, (self._elements, beams_of(len(read), self._elements)))
        if not torch.equal(copies, copies[:, :1].expand_as(copies)):
            raise MethodError(
                f"the model runs {len(read)} sequences for {self._elements} prompts, and copies of one prompt do not "
                "stand next to each other: start steering for the batch that is run, each sequence a prompt"
            )

    def set_pass(self, past: int, queries: int) -> None:
        """Set the current pass; call it before the first event where the prompt was read outside the block.

        Args:
            past: positions in the key/value cache before the pass.
            queries: Q, positions that the pass reads.

        Raises:
            MethodError: the first pass of the block starts with a filled cache.
        """
        if self._running is None and past > 0:
            raise MethodError(
                f"{past} positions were in the key/value cache when steering began; start it before the prompt is read"
            )
        self._running = GenerationPass(past, queries, self._prompt)

    @property
    def running(self) -> GenerationPass:
        """The current pass.

        Raises:
            MethodError: no pass has begun.
        """
        if self._running is None:
            raise MethodError("a steered layer ran outside its decoder; call the model or its decoder as a whole")
        return self._running

    def residual(self, layer: int, hidden: Tensor) -> None:
        """Pass a layer's input [rows, Q, E] to the editor while the prompt is read."""
        if self.running.step == 0:
            self.editor.residual(layer, hidden, self.running)

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """Add the editor's edit to a call; return the same object where there is none.

        Raises:
            MethodError: the layer has a sliding window that has dropped keys or does not attend from every position, or
                the batch does not fit.
            RecordingError: the keys are not the sequence.
        """
        running = self.running
        beams_of(call.query.shape[0], self._elements)
        if call.query_count != running.queries:
            raise MethodError(
                f"layer {layer} attends from {call.query_count} of the {running.queries} positions that are read, as "
                "layers with shared keys do while a prompt is read: steer other layers"
            )
        if layer in self._crossing:
            located = call if call.edits else call.changed(query_offset=running.past)
            edit = self.editor.edit(layer, located, running)
            return call if edit is None else located.changed(edits=self._with(layer, call.edits, edit))
        refuse_other_keys(layer, call, running.past, self._cache)
        located = call
        if not call.edits:  # otherwise an outer block has set the offsets
            dropped = max(running.past + running.queries - call.key_count, 0)
            located = call.changed(query_offset=running.past, key_offset=dropped)
        if located.key_offset:
            raise MethodError(
                f"layer {layer} keeps a sliding window of {call.key_count} keys, so image keys have been dropped; "
                "steer other layers"
            )
        edit = self.editor.edit(layer, located, running)
        return call if edit is None else located.changed(edits=self._with(layer, call.edits, edit))

    def _with(self, layer: int, earlier: tuple[RowEdit, ...], edit: RowEdit) -> tuple[RowEdit, ...]:
        """Add an edit; two biases known before the call are one, added once for as many steps as both serve."""
        if not earlier or earlier[-1].start != edit.start:
            return (*earlier, edit)
        known = self._sums.get(layer)
        if known is None or known[0] is not earlier[-1] or known[1] is not edit:
            one, other = earlier[-1].fixed_bias, edit.fixed_bias
            if one is None or other is None:
                return (*earlier, edit)
            keys = min(one.shape[-1], other.shape[-1])
            total = RowEdit(edit.start, AttentionEdit(one[..., :keys] + other[..., :keys]))
            known = self._sums[layer] = (earlier[-1], edit, total)
        return (*earlier[:-1], known[2])

    def gate(self, layer: int, outputs: Tensor) -> Tensor | None:
        """Multiply the heads' outputs [rows, Q, H * Dv] of gated queries."""
        running = self.running
        gates = self.editor.gates(layer, running)
        if gates is None:
            return None
        first = self.editor.gated_from(running).to(outputs.device)
        first = first.repeat_interleave(beams_of(outputs.shape[0], self._elements))
        position = running.past + torch.arange(running.queries, device=outputs.device)
        chosen = position[None, :, None, None] >= first[:, None, None, None]  # [rows, Q, 1, 1]
        if not bool(chosen.any()):
            return None
        heads = outputs.unflatten(-1, (len(gates), -1))  # [rows, Q, H, Dv]
        factor = gates.to(outputs)[:, None]
        return torch.where(chosen, heads * factor, heads).flatten(2)


@contextmanager
def apply(model: nn.Module, editor: Editor, prompt: int, elements: int) -> Iterator[SteeringHooks]:
    """Apply an editor to every decoder pass of this thread inside the block.

    All hooks are removed when the block ends, also after an exception. Blocks may be nested, with each other and with
    `record`, which then records the edited rows.

    Args:
        model: a transformers model that holds a decoder.
        editor: decides the edits.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.

    Yields:
        The hooks.

    Raises:
        RecordingError: for a model without a decoder, a layer that is not there or whose calls cannot be edited, a
            compiled model, or a kernel that cannot be followed.
    """
    stack = decoder_stack(model)
    hooks = SteeringHooks(editor, prompt, elements, cross_layers(stack))
    scope = Scope(editor.layers, editor.residual_layers, editor.gate_layers, edits=True)
    with intercept(model, hooks, scope, stack=stack):
        yield hooks
