"""Apply an editor to a model for one generation: which pass runs, where in the text it is, what is edited."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from grounding.attention.call import AttentionCall, RowEdit
from grounding.attention.events import Pass, Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.errors import MethodError


@dataclass(frozen=True)
class GenerationPass:
    """One run of the decoder in a generation.

    Attributes:
        past: positions in the cache before it.
        queries: Q, new positions it reads.
        prompt: N, the prompt's length, padding included.
    """

    past: int
    queries: int
    prompt: int

    @property
    def step(self) -> int:
        """0 while the prompt is read, t for the pass that reads the t-th generated token first."""
        return max(self.past - self.prompt + 1, 0)

    def first_query(self, position: int) -> int | None:
        """Index of the first query at or after a position of the sequence; None if all queries are before it."""
        index = max(position - self.past, 0)
        return index if index < self.queries else None


class Editor(Protocol):
    """What a steering step does in one generation. Rows of a batch are elements times beams."""

    layers: Collection[int]
    """Decoder layers whose attention calls may be edited."""

    residual_layers: Collection[int]
    """Decoder layers whose input is shown while the prompt is read."""

    gate_layers: Collection[int]
    """Decoder layers whose heads' outputs are multiplied."""

    def residual(self, layer: int, hidden: Tensor, running: GenerationPass) -> None:
        """The input [rows, Q, E] of a layer, before its attention."""

    def edit(self, layer: int, call: AttentionCall, running: GenerationPass) -> RowEdit | None:
        """The edit of a layer's attention call; None leaves it to the kernel, bit for bit."""

    def gates(self, layer: int, running: GenerationPass) -> Tensor | None:
        """[H] factors on a layer's heads' outputs in this pass; None leaves them, bit for bit."""

    def gated_from(self, running: GenerationPass) -> Tensor:
        """[elements] int64, the first position of each element whose query is gated."""


def beams_of(rows: int, elements: int) -> int:
    """Rows of the batch per element; row r is of element r // beams, reordered or not.

    Raises:
        MethodError: the rows cannot be shared out evenly.
    """
    if rows % elements:
        raise MethodError(
            f"the model runs {rows} sequences for {elements} prompts: expected the same number of beams or samples per "
            "prompt; leave other batches alone with grounding.attention.events.without_edits()"
        )
    return rows // elements


class SteeringHooks(Subscriber):
    """Connect one editor with one decoder for one generation.

    Args:
        editor: decides the edits.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.
    """

    def __init__(self, editor: Editor, prompt: int, elements: int) -> None:
        self.editor = editor
        self._prompt = prompt
        self._elements = elements
        self._running: GenerationPass | None = None

    def begin_pass(self, running: Pass) -> None:
        """Place the pass in the generation."""
        if running.queries is not None:
            self.set_pass(running.past, running.queries)

    def set_pass(self, past: int, queries: int) -> None:
        """Note that a pass over `queries` positions on top of `past` cached ones runs, or has run before the block."""
        if self._running is None and past > 0:
            raise MethodError(
                f"{past} positions were in the key/value cache when steering began; start it before the prompt is read"
            )
        self._running = GenerationPass(past, queries, self._prompt)

    @property
    def running(self) -> GenerationPass:
        """The pass that runs now."""
        if self._running is None:
            raise MethodError("a steered layer ran outside its decoder; call the model or its decoder as a whole")
        return self._running

    def residual(self, layer: int, hidden: Tensor) -> None:
        """Show the editor a layer's input while the prompt is read."""
        if self.running.step == 0:
            self.editor.residual(layer, hidden, self.running)

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """Add the editor's edit, if it has one for this call."""
        running = self.running
        beams_of(call.query.shape[0], self._elements)
        total = running.past + running.queries
        placed = call
        if not call.edits:  # otherwise an outer block has placed it
            placed = replace(call, query_offset=running.past, key_offset=max(total - call.key_count, 0))
        if placed.key_offset:
            raise MethodError(
                f"layer {layer} keeps a sliding window of {call.key_count} keys, so image keys have been dropped; "
                "steer other layers"
            )
        edit = self.editor.edit(layer, placed, running)
        return call if edit is None else replace(placed, edits=(*call.edits, edit))

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
    """Let an editor edit what `model` computes in this thread inside the block; undone however it ends.

    Blocks may be nested, with each other and with `record`, which then sees the edited rows.

    Args:
        model: a transformers model that holds a decoder.
        editor: decides the edits.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.

    Raises:
        RecordingError: for a model without a decoder, a layer that is not there or whose calls cannot be edited, a
            compiled model, or a kernel that cannot be followed.
    """
    hooks = SteeringHooks(editor, prompt, elements)
    scope = Scope(editor.layers, editor.residual_layers, editor.gate_layers, edits=True)
    with intercept(model, hooks, scope):
        yield hooks
