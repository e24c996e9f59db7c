"""`record`: keep chosen attention weights of a transformers model while it runs with its own kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.budget import DecoderShape
from grounding.attention.introspect import (
    cache_of,
    cached,
    configs_of,
    find_decoder,
    layers_of,
    length_of,
    refuse_compiled,
)
from grounding.attention.request import Recording, RowRequest
from grounding.attention.session import Session
from grounding.attention.switch import is_watching, switched, uses_interface, watching
from grounding.attention.tap import SdpaTap
from grounding.errors import RecordingError

__all__ = ["Recording", "RowRequest", "find_decoder", "record"]


@contextmanager
def record(
    model: nn.Module,
    request: RowRequest,
    *,
    decoder: nn.Module | None = None,
    on_step: Callable[[list[Tensor]], None] | None = None,
) -> Iterator[Recording]:
    """Record attention rows of everything that `model` computes for one prompt inside the block.

    The model runs with its own kernel and its outputs are bit-identical to a run without recording. Only the language
    model is touched; the vision tower is not. All changes are undone when the block ends, however it ends. Blocks may
    be nested, also on one model, and used in several threads; each sees its own thread's passes.

    Args:
        model: a transformers model, of any class that holds a decoder with `.layers`.
        request: what to keep.
        decoder: the module with `.layers`, where it is not the one that `model.get_decoder()` finds.
        on_step: takes each decode step's rows, per batch element [L, H, 1, C] float32 on the CPU, as soon as the step
            has run. They are not kept then, so that a long generation needs the memory of one step.

    Yields:
        The recording, readable after the block.

    Raises:
        RecordingError: before, in or after the run, for a model, a position or a way of generating that cannot be
            recorded.
        BudgetError: before the run, for a request over its budget.
    """
    refuse_compiled(model)
    decoder = decoder if decoder is not None else find_decoder(model)
    layers = layers_of(decoder)
    if layers is None:
        raise RecordingError(
            f"{type(decoder).__name__} has no list of layers; pass the module that has one as decoder="
        )
    shape = DecoderShape.of(decoder.config, len(layers))
    _refuse_unknown(request, shape)
    session = Session(request, layers, shape, on_step)
    named = [positions for positions in (request.queries, request.keys, request.image_keys) if positions is not None]
    session.expect_length(1 + max((p for positions in named for element in positions for p in element), default=0))
    recording = Recording(session.layers)
    with ExitStack() as stack:
        stack.enter_context(watching(session))
        if all(uses_interface(layers[i]) for i in session.layers):
            stack.enter_context(switched(configs_of(model, decoder, layers)))
        else:
            for i in session.layers:
                _tap(stack, session, i, layers[i])
        _follow(stack, session, model, decoder)
        if request.residual_sinks:
            for i in session.layers:
                _keep_residuals(stack, session, i, layers[i])
        yield recording
    session.finish(recording)


def _refuse_unknown(request: RowRequest, shape: DecoderShape) -> None:
    for name, chosen, count in (("layer", request.layers, shape.layers), ("head", request.heads, shape.heads)):
        if chosen is not None and max(chosen) >= count:
            raise RecordingError(f"{name} {max(chosen)} does not exist: the model has {count} (0 to {count - 1})")


def _follow(stack: ExitStack, session: Session, model: nn.Module, decoder: nn.Module) -> None:
    """Tell the session when a pass begins and ends, and the prompt's length before the vision tower runs."""

    def before_model(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_watching(session):
            length = length_of(module, args, kwargs)
            if length is not None:
                session.expect_length(length)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_watching(session):
            return
        if torch.compiler.is_compiling():
            raise RecordingError("the model is being compiled while it is recorded; run it uncompiled")
        length = length_of(module, args, kwargs)
        if length is None:
            raise RecordingError(f"{type(module).__name__} was called without input_ids and without inputs_embeds")
        cache = cache_of(module, args, kwargs)
        session.begin_pass(cached(cache), length)
        if cache is not None and session.request.decode:
            _forbid_reorder(stack, session, cache)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if is_watching(session):
            session.end_pass(failed=output is None)

    if model is not decoder:
        stack.callback(model.register_forward_pre_hook(before_model, with_kwargs=True).remove)
    stack.callback(decoder.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(decoder.register_forward_hook(after, with_kwargs=True, always_call=True).remove)


def _tap(stack: ExitStack, session: Session, index: int, layer: nn.Module) -> None:
    """Listen to torch's attention function from a layer's beginning to its end."""
    entered: list[SdpaTap] = []

    def listen(call: Any, output: Tensor) -> None:
        if session.layer_of(layer) is not None:
            session.observe(index, call, output)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if is_watching(session):
            tap = SdpaTap(listen)
            tap.__enter__()
            entered.append(tap)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_watching(session):
            release()

    def release() -> None:
        while entered:
            entered.pop().__exit__(None, None, None)

    stack.callback(layer.register_forward_pre_hook(enter).remove)
    stack.callback(layer.register_forward_hook(leave, always_call=True).remove)
    stack.callback(release)  # an interrupt from the keyboard skips forward hooks


def _keep_residuals(stack: ExitStack, session: Session, index: int, layer: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if is_watching(session) and isinstance(hidden, Tensor):
            session.keep_residual(index, hidden)

    stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)


def _forbid_reorder(stack: ExitStack, session: Session, cache: Any) -> None:
    if "reorder_cache" in vars(cache):
        return
    cache.reorder_cache = session.refuse_reorder
    restore: Callable[[], Any] = lambda: vars(cache).pop("reorder_cache", None)  # noqa: E731
    stack.callback(restore)
