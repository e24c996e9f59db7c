"""`intercept`: the one place that finds layers, wraps kernels and follows passes; it emits attention events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grounding.attention.backends.sdpa import SdpaTap, head_count
from grounding.attention.backends.transformers import emitting, refuse_kernel, uses_interface
from grounding.attention.call import AttentionCall
from grounding.attention.events import Pass, Route, Scope, Subscriber, opened
from grounding.attention.introspect import (
    LayerStack,
    cache_of,
    cached_length,
    decoder_stack,
    length_of,
    output_projection,
    refuse_compiled,
)
from grounding.errors import RecordingError

Backend = Literal["auto", "transformers", "sdpa"]


@contextmanager
def intercept(
    model: nn.Module,
    subscriber: Subscriber,
    scope: Scope,
    *,
    stack: LayerStack | None = None,
    backend: Backend = "auto",
) -> Iterator[None]:
    """Emit the attention events of a model's layers to a subscriber inside the block.

    Everything is undone when the block ends, however it ends. Blocks may be nested, also on one model, and used in
    several threads; a subscriber sees the passes of its own thread.

    Args:
        model: a transformers model.
        subscriber: receives the events.
        scope: which events.
        stack: the layers to follow; the language model's where None.
        backend: who emits calls: `transformers`, the registry that layers look their kernel up in; `sdpa`, torch's
            attention function; `auto`, the registry where every layer of the scope uses it.

    Raises:
        RecordingError: for a model without such layers, a layer that is not there, a compiled model, a kernel that
            cannot be followed, or edits of layers that do not use the registry.
    """
    refuse_compiled(model)
    stack = stack if stack is not None else decoder_stack(model)
    refuse_missing(scope, stack)
    outside = [i for i in scope.calls if not uses_interface(stack.layers[i])]
    if scope.edits and (outside or backend == "sdpa") and scope.calls:
        layer = stack.layers[outside[0] if outside else next(iter(scope.calls))]
        raise RecordingError(
            f"{type(layer).__name__} does not take its attention kernel from transformers' registry, so its calls "
            "cannot be edited: expected a decoder that does"
        )
    route = Route(subscriber, stack.layers, scope)
    with ExitStack() as undo:
        undo.enter_context(opened(route))
        passes = _PassHooks(undo, route, model, stack.module)
        if scope.calls and not outside and backend != "sdpa":
            if hasattr(stack.module, "config"):
                refuse_kernel(stack.module.config)
            undo.enter_context(emitting())
        else:
            for i in scope.calls:
                _tap(undo, route, passes, i, stack.layers[i])
        for i in scope.residuals:
            _emit_residual(undo, route, i, stack.layers[i])
        for i in scope.gates:
            _emit_outputs(undo, route, i, stack.layers[i])
        yield


def refuse_missing(scope: Scope, stack: LayerStack) -> None:
    """Refuse layers that the stack does not have.

    Raises:
        RecordingError: naming the first one.
    """
    count = len(stack.layers)
    for i in (*scope.calls, *scope.residuals, *scope.gates):
        if not 0 <= i < count:
            raise RecordingError(f"layer {i} does not exist: the model has {count} (0 to {count - 1})")


class _PassHooks:
    """Follows the runs of a stack.

    Args:
        undo: takes what removes the hooks.
        route: receives the events.
        model: the whole model.
        module: the stack's module.
    """

    def __init__(self, undo: ExitStack, route: Route, model: nn.Module, module: nn.Module) -> None:
        self._route = route
        self.queries: int | None = None
        """Q of the running pass."""
        if model is not module:
            undo.callback(model.register_forward_pre_hook(self._before_model, with_kwargs=True).remove)
        undo.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(self._after, with_kwargs=True, always_call=True).remove)

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._route.is_active:
            length = length_of(module, args, kwargs)
            if length is not None:
                self._route.subscriber.before_model(length)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._route.is_active:
            return
        if torch.compiler.is_compiling():
            raise RecordingError("the model is being compiled while it is recorded; run it uncompiled")
        self.queries = length_of(module, args, kwargs)
        cache = cache_of(module, args, kwargs)
        self._route.subscriber.begin_pass(Pass(cached_length(cache), self.queries, cache, kwargs))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._route.is_active:
            self._route.subscriber.end_pass(failed=output is None)


def _tap(undo: ExitStack, route: Route, passes: _PassHooks, index: int, layer: nn.Module) -> None:
    """Listen to torch's attention function from a layer's beginning to its end."""
    entered: list[SdpaTap] = []
    heads = head_count(layer)

    def listen(call: AttentionCall, output: Tensor) -> None:
        if route.layer(layer) is not None:
            route.subscriber.observe(index, call, output)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if route.is_active:
            tap = SdpaTap(listen, heads, passes.queries)
            tap.__enter__()
            entered.append(tap)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if route.is_active:
            release()

    def release() -> None:
        while entered:
            entered.pop().__exit__(None, None, None)

    undo.callback(layer.register_forward_pre_hook(enter).remove)
    undo.callback(layer.register_forward_hook(leave, always_call=True).remove)
    undo.callback(release)  # a keyboard interrupt skips forward hooks


def _emit_residual(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if route.is_active and isinstance(hidden, Tensor):
            route.subscriber.residual(index, hidden)

    undo.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)


def _emit_outputs(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = route.subscriber.gate(index, args[0]) if route.is_active else None
        return None if changed is None else (changed, *args[1:])

    undo.callback(output_projection(layer).register_forward_pre_hook(before).remove)
