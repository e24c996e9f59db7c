"""Record chosen attention rows of a transformers model while it runs with its own kernel (`record`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from grounding.attention.budget import DecoderShape
from grounding.attention.collector import RowCollector
from grounding.attention.coverage import (
    cross_layers,
    linear_layers,
    refuse_layers,
    refuse_other_layers,
    refuse_sequence_layers,
    row_layers,
)
from grounding.attention.cross_collector import CrossCollector
from grounding.attention.events import Scope, observes
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack, decoder_stack
from grounding.attention.linear_collector import LinearCollector
from grounding.attention.request import Recording, RowRequest
from grounding.attention.verify import verifying
from grounding.errors import RecordingError


@contextmanager
def record(
    model: nn.Module,
    request: RowRequest,
    *,
    decoder: nn.Module | None = None,
    on_step: Callable[[list[Tensor]], None] | None = None,
    verify: bool = False,
) -> Iterator[Recording]:
    """Record attention rows of all passes over one prompt, and of its generation, inside the block.

    The model runs with its own kernel and its outputs are bit-identical to a run without recording. Only the language
    model is followed, not the vision tower. All hooks are removed when the block ends, also after an exception. Blocks
    may be nested, also on one model, and used in several threads; each records the passes of its own thread. Rows of
    decode steps are computed up to 32 steps late, so that they cost little; until then the cache may be given new
    tensors, but writing into its own is refused.

    Args:
        model: a transformers model of any class that holds a decoder with `.layers`.
        request: what to record.
        decoder: the module with `.layers`; found by `model.get_decoder()` where None.
        on_step: receives each decode step's rows, per batch element [L, H, 1, C] float32 on the CPU, as soon as the
            step has run. The rows are then not kept, so a long generation needs the memory of one step.
        verify: run every pass once more without recording and compare its outputs bit for bit, which doubles the time.

    Yields:
        The recording, readable after the block.

    Raises:
        RecordingError: the model, a position or the way of generating cannot be recorded, or an output differs from
            the plain pass of `verify`; raised before, during or after the run.
        ModelError: the attention is not finite, as where a model overflows in float16.
        BudgetError: the request exceeds its budget (raised before the run), or its decode steps do (during the run).
    """
    stack = decoder_stack(model, decoder)
    if request.spec.attention == "linear":
        with _recording_linear(model, request, stack, verify=verify) as recording:
            yield recording
        return
    crosses = request.spec.attention == "cross"
    every = cross_layers(stack) if crosses else range(len(stack.layers))
    chosen = request.spec.layers if request.spec.layers is not None else every
    existing = [i for i in chosen if i < len(stack.layers)]
    if crosses:
        refuse_sequence_layers(stack, existing)
        request = replace(request, spec=replace(request.spec, layers=tuple(chosen)))
    elif request.spec.flow is None:
        refuse_layers(stack, existing)
    elif on_step is not None:
        raise RecordingError(
            "an attention flow is computed behind the last step, so it has no rows to give to on_step: leave it out"
        )
    shape = DecoderShape.of(stack.module.config, len(stack.layers), _bytes_of_number(stack.module))
    _refuse_unknown(request, shape)
    if request.spec.flow is not None:
        through = tuple(i for i in existing if i in row_layers(stack))
        if not through:
            refuse_layers(stack, existing)
        request = replace(request, spec=replace(request.spec, layers=through))
    with ExitStack() as undo:
        collector = (CrossCollector if crosses else RowCollector)(request, shape, undo, on_step)
        collector.before_model(_least_length(request))
        recording = Recording(collector.layers)
        residuals = collector.layers if request.spec.residual_sinks else ()
        undo.enter_context(intercept(model, collector, Scope(collector.layers, residuals), stack=stack))
        if verify:
            undo.enter_context(verifying(model, stack, partial(observes, collector)))
        yield recording
    collector.finish(recording)


@contextmanager
def _recording_linear(model: nn.Module, request: RowRequest, stack: LayerStack, *, verify: bool) -> Iterator[Recording]:
    """Record rows of layers of linear attention; see `record`."""
    layers = request.spec.layers if request.spec.layers is not None else linear_layers(stack)
    refuse_other_layers(stack, [i for i in layers if i < len(stack.layers)])
    shape = DecoderShape.of_linear(stack)
    _refuse_unknown(request, shape)
    collector = LinearCollector(replace(request, spec=replace(request.spec, layers=layers)), shape)
    collector.before_model(_least_length(request))
    recording = Recording(layers)
    with ExitStack() as undo:
        undo.enter_context(intercept(model, collector, Scope(linear=layers), stack=stack))
        if verify:
            undo.enter_context(verifying(model, stack, partial(observes, collector)))
        yield recording
    collector.finish(recording)


def _least_length(request: RowRequest) -> int:
    """Return the length of the shortest prompt that has every position of the request."""
    keys = (request.keys, request.image_keys) if request.spec.attention != "cross" else ()
    named = [positions for positions in (request.queries, *keys) if positions is not None]
    return 1 + max((p for positions in named for element in positions for p in element), default=0)


def _bytes_of_number(module: nn.Module) -> int:
    """Return the size of one number of the module's activations; 4 where it has no parameters."""
    return next((p.dtype.itemsize for p in module.parameters() if p.dtype.is_floating_point), 4)


def _refuse_unknown(request: RowRequest, shape: DecoderShape) -> None:
    chosen = (("layer", request.spec.layers, shape.layers), ("head", request.spec.heads, shape.heads))
    for name, wanted, count in chosen:
        if wanted is not None and max(wanted) >= count:
            raise RecordingError(f"{name} {max(wanted)} does not exist: the model has {count} (0 to {count - 1})")
