"""Where steering meets the model: which pass runs, whose rows these are, and what a plan changes in a layer's call.

A `Editor` is what a method wants for one generation. The seam follows the decoder's passes as the recorder does, tells
the plan where in the text they are, and hands its changes to the kernel's route (`grounding.attention.switch`), which
runs the stock kernel. Threads that run the same model without the seam see nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grounding.attention.edits import RowEdit
from grounding.attention.introspect import (
    cache_of,
    cached,
    configs_of,
    find_decoder,
    layers_of,
    length_of,
    refuse_compiled,
)
from grounding.attention.rows import AttentionCall
from grounding.attention.switch import intervening, is_intervening, switched, uses_interface
from grounding.errors import MethodError

OUTPUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo")
"""What transformers' attention modules call the matrix that mixes the heads' outputs."""


@dataclass(frozen=True)
class Pass:
    """One run of the decoder.

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
    """What a method does in one generation."""

    layers: Collection[int]
    """Decoder layers whose attention is of interest."""

    residual_layers: Collection[int]
    """Decoder layers whose input is to be shown while the prompt is read."""

    gate_layers: Collection[int]
    """Decoder layers whose heads' outputs are multiplied."""

    def residual(self, layer: int, hidden: Tensor, running: Pass) -> None:
        """The input [rows, Q, E] of a layer, before its attention; `rows` are elements times beams."""

    def change(self, layer: int, call: AttentionCall, running: Pass) -> RowEdit | None:
        """What to do to a layer's attention call; None leaves it to the kernel, bit for bit."""

    def gates(self, layer: int, running: Pass) -> Tensor | None:
        """[H] factors on the heads' outputs of a layer in this pass, or None to leave them, bit for bit."""

    def gated_from(self, running: Pass) -> Tensor:
        """[elements] int64, the first position of each element whose query is gated."""


def beams_of(rows: int, elements: int) -> int:
    """How many rows of the batch belong to one element; row r is of element r // beams, reordered or not.

    Raises:
        MethodError: the rows cannot be shared out evenly.
    """
    if rows % elements:
        raise MethodError(
            f"the model runs {rows} sequences for {elements} prompts: expected the same number of beams or samples per "
            "prompt; leave other batches alone with grounding.attention.switch.unsteered()"
        )
    return rows // elements


class SteeringHooks:
    """Connects one plan with one decoder for one generation.

    Args:
        plan: what to change.
        layers: the decoder's layers.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.
    """

    def __init__(self, plan: Editor, layers: nn.ModuleList, prompt: int, elements: int) -> None:
        self.plan = plan
        self._prompt = prompt
        self._elements = elements
        self._running: Pass | None = None
        self._owner = {id(module): i for i in plan.layers for module in layers[i].modules()}

    def begin_pass(self, past: int, queries: int) -> None:
        """A pass over `queries` new positions on top of `past` cached ones is about to run."""
        if self._running is None and past > 0:
            raise MethodError(
                f"{past} positions were in the key/value cache when steering began; start it before the prompt is read"
            )
        self._running = Pass(past, queries, self._prompt)

    @property
    def running(self) -> Pass:
        """The pass that runs now."""
        if self._running is None:
            raise MethodError("a steered layer ran outside its decoder; call the model or its decoder as a whole")
        return self._running

    def layer_of(self, module: nn.Module) -> int | None:
        """The steered layer `module` is part of."""
        return self._owner.get(id(module))

    def intervene(self, layer: int, call: AttentionCall) -> AttentionCall:
        """The call with the plan's change, if it has one for it."""
        running = self.running
        beams_of(call.query.shape[0], self._elements)
        total = running.past + running.queries
        placed = call
        if not call.changes:  # else an earlier seam has placed it
            placed = replace(call, query_offset=running.past, key_offset=max(total - call.key_count, 0))
        if placed.key_offset:
            raise MethodError(
                f"layer {layer} keeps a sliding window of {call.key_count} keys, so image keys have been dropped; "
                "steer other layers"
            )
        change = self.plan.change(layer, placed, running)
        return call if change is None else replace(placed, changes=(*call.changes, change))

    def residual(self, layer: int, hidden: Tensor) -> None:
        """Show the plan a layer's input while the prompt is read."""
        if self.running.step == 0:
            self.plan.residual(layer, hidden, self.running)

    def gated(self, layer: int, mixed: Tensor) -> Tensor | None:
        """The heads' outputs [rows, Q, H * Dv] of a layer with its gates; None where nothing is to change."""
        running = self.running
        gates = self.plan.gates(layer, running)
        if gates is None:
            return None
        first = self.plan.gated_from(running).to(mixed.device)
        first = first.repeat_interleave(beams_of(mixed.shape[0], self._elements))
        position = running.past + torch.arange(running.queries, device=mixed.device)
        chosen = position[None, :, None, None] >= first[:, None, None, None]  # [rows, Q, 1, 1]
        if not bool(chosen.any()):
            return None
        heads = mixed.unflatten(-1, (len(gates), -1))  # [rows, Q, H, Dv]
        factor = gates.to(mixed)[:, None]
        return torch.where(chosen, heads * factor, heads).flatten(2)


@contextmanager
def steered(model: nn.Module, plan: Editor, prompt: int, elements: int) -> Iterator[SteeringHooks]:
    """Let a plan change what `model` computes in this thread inside the block; undone however it ends.

    Blocks may be nested, with each other and with `record`, which then sees the steered rows.

    Args:
        model: a transformers model that holds a decoder.
        plan: what to change.
        prompt: N, the prompt's length, padding included.
        elements: B, prompts in the batch.

    Yields:
        The seam.

    Raises:
        MethodError: for a layer that is not there or does not look its kernel up where it can be changed.
        RecordingError: for a model without a decoder, a compiled model, or a kernel that cannot be followed.
    """
    refuse_compiled(model)
    decoder = find_decoder(model)
    layers = layers_of(decoder)
    assert layers is not None
    for i in (*plan.layers, *plan.residual_layers, *plan.gate_layers):
        if i >= len(layers):
            raise MethodError(f"layer {i} does not exist: the model has {len(layers)} (0 to {len(layers) - 1})")
    foreign = [i for i in plan.layers if not uses_interface(layers[i])]
    if foreign:
        raise MethodError(
            f"layer {foreign[0]} ({type(layers[foreign[0]]).__name__}) does not take its attention kernel from "
            "transformers' registry, so it cannot be steered: expected a decoder that does"
        )
    seam = SteeringHooks(plan, layers, prompt, elements)
    with ExitStack() as stack:
        stack.enter_context(intervening(seam))
        if plan.layers:
            stack.enter_context(switched(configs_of(model, decoder, layers)))
        _follow(stack, seam, decoder)
        for i in plan.residual_layers:
            _show_residuals(stack, seam, i, layers[i])
        for i in plan.gate_layers:
            _gate(stack, seam, i, layers[i])
        yield seam


def _follow(stack: ExitStack, seam: SteeringHooks, decoder: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        length = length_of(module, args, kwargs) if is_intervening(seam) else None
        if length is not None:
            seam.begin_pass(cached(cache_of(module, args, kwargs)), length)

    stack.callback(decoder.register_forward_pre_hook(before, with_kwargs=True).remove)


def _show_residuals(stack: ExitStack, seam: SteeringHooks, index: int, layer: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if is_intervening(seam) and isinstance(hidden, Tensor):
            seam.residual(index, hidden)

    stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)


def _gate(stack: ExitStack, seam: SteeringHooks, index: int, layer: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = seam.gated(index, args[0]) if is_intervening(seam) else None
        return None if changed is None else (changed, *args[1:])

    stack.callback(output_projection(layer).register_forward_pre_hook(before).remove)


def output_projection(layer: nn.Module) -> nn.Module:
    """The matrix that mixes the heads' outputs of a decoder layer.

    Raises:
        MethodError: it is not found under its usual names.
    """
    attention = getattr(layer, "self_attn", None) or getattr(layer, "attn", None) or getattr(layer, "attention", None)
    for name in OUTPUT_NAMES:
        found = getattr(attention, name, None)
        if isinstance(found, nn.Module):
            return found
    raise MethodError(
        f"{type(layer).__name__} has no attention output matrix under a known name ({', '.join(OUTPUT_NAMES)}), so its "
        "heads cannot be gated"
    )
