"""Find layers, wrap kernels and follow passes of a model, and emit attention events (`intercept`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from grounding.attention.backends.diffusers import DispatchTap, dispatching, has_processor, uses_dispatcher
from grounding.attention.backends.sdpa import SdpaTap, head_count
from grounding.attention.backends.transformers import emitting, refuse_kernel, uses_interface
from grounding.attention.call import AttentionCall
from grounding.attention.events import Pass, Route, Scope, Subscriber, opened
from grounding.attention.generation import Prompt, following
from grounding.attention.introspect import (
    LayerStack,
    argument,
    arguments,
    cache_of,
    cached_length,
    decoder_stack,
    length_of,
    output_projection,
    refuse_compiled,
)
from grounding.errors import RecordingError

Backend = Literal["auto", "transformers", "diffusers", "sdpa"]


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

    All hooks are removed when the block ends, also after an exception. Blocks may be nested, also on one model, and
    used in several threads; a subscriber receives the passes of its own thread.

    Args:
        model: a transformers model, or a transformer of diffusers.
        subscriber: receives the events.
        scope: events to emit.
        stack: layers to follow; those of the language model where None.
        backend: source of calls: `transformers`, the kernel registry; `diffusers`, its dispatcher; `sdpa`, torch's
            attention function; `auto`, the registry if every layer of the scope uses it, else per layer the dispatcher
            where its processor uses it, else torch's function.

    Raises:
        RecordingError: the model has no such layers, is compiled or has a kernel that cannot be followed, or edits are
            requested of layers that use neither the registry nor a processor of diffusers.
    """
    if backend not in get_args(Backend):
        raise RecordingError(f"backend {backend!r} is unknown: use one of {', '.join(get_args(Backend))}")
    refuse_compiled(model)
    stack = stack if stack is not None else decoder_stack(model)
    refuse_missing(scope, stack)
    outside = [i for i in scope.calls if not uses_interface(stack.layers[i])]
    # Torch's function is not told which layers of a language model share key heads, and packs their decode steps.
    asked = scope.calls if backend == "sdpa" else outside
    fixed = [i for i in asked if not has_processor(stack.layers[i])]
    if scope.edits and fixed:
        raise RecordingError(
            f"{type(stack.layers[fixed[0]]).__name__} does not take its attention kernel from transformers' registry "
            "or a processor of diffusers, so its calls cannot be edited: expected a model that does"
        )
    route = Route(subscriber, stack.layers, scope)
    with ExitStack() as undo:
        undo.enter_context(opened(route))
        passes = _PassHooks(undo, route, model, stack.module)
        undo.enter_context(following(passes))
        if scope.calls and not outside and backend in ("auto", "transformers"):
            if hasattr(stack.module, "config"):
                refuse_kernel(stack.module.config)
            undo.enter_context(emitting())
        else:
            dispatched = backend != "sdpa" and any(uses_dispatcher(stack.layers[i]) for i in scope.calls)
            if dispatched:
                undo.enter_context(dispatching())
            for i in scope.calls:
                _tap(undo, route, passes, i, stack.layers[i], scope.log_sum_exp, backend)
        for i in scope.residuals:
            _emit_residual(undo, route, i, stack.layers[i])
        for i in scope.gates:
            _emit_outputs(undo, route, i, stack.layers[i])
        yield


def refuse_missing(scope: Scope, stack: LayerStack) -> None:
    """Check that all layers of a scope exist.

    Raises:
        RecordingError: one does not; the message names the first.
    """
    count = len(stack.layers)
    for i in (*scope.calls, *scope.residuals, *scope.gates):
        if not 0 <= i < count:
            raise RecordingError(f"layer {i} does not exist: the model has {count} (0 to {count - 1})")


class _Hook:
    """A forward hook that does nothing in a deep or pickled copy of its module, whose runs are not followed."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    return None


class _PassHooks:
    """Follow the runs of a stack by forward hooks, and compare their positions with the prompt that was given.

    Args:
        undo: receives callbacks that remove the hooks.
        route: receives the events.
        model: the whole model.
        module: the stack's module.
    """

    def __init__(self, undo: ExitStack, route: Route, model: nn.Module, module: nn.Module) -> None:
        self._route = route
        self._model, self._module = model, module
        self._generates: nn.Module | None = None
        self._given: tuple[int, int] | None = None  # positions and cached positions that the next pass must read
        self.queries: int | None = None
        """Q of the current pass; None before the first."""
        if model is not module:
            undo.callback(model.register_forward_pre_hook(_Hook(self._before_model), with_kwargs=True).remove)
        undo.callback(module.register_forward_pre_hook(_Hook(self._before), with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(_Hook(self._after), with_kwargs=True, always_call=True).remove)

    def begin_generation(self, model: nn.Module, prompt: Prompt | None) -> None:
        """Tell the subscriber of a generation by the followed model or a part of it that holds the stack."""
        own = self._generates is None and self._route.is_active
        if not own or not (_holds(self._model, model) and _holds(model, self._module)):
            return
        self._generates = model
        if prompt is not None:
            self._given = None if prompt.assisted else (prompt.length - prompt.cached, prompt.cached)
            self._route.subscriber.begin_generation(prompt)

    def end_generation(self, model: nn.Module) -> None:
        """Forget the generation."""
        if model is self._generates:
            self._generates = self._given = None

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._route.is_active:
            return
        length = length_of(module, args, kwargs)
        if length is not None:
            if self._generates is None and not getattr(getattr(module, "config", None), "is_encoder_decoder", False):
                self._given = (length, cached_length(cache_of(module, args, kwargs)))
            self._route.subscriber.before_model(length)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._route.is_active:
            return
        if torch.compiler.is_compiling():
            raise RecordingError("the model is being compiled while it is recorded; run it uncompiled")
        self.queries = length_of(module, args, kwargs)
        cache = cache_of(module, args, kwargs)
        past = cached_length(cache)
        self._refuse_added(past, self.queries)
        mask = argument(module, args, kwargs, "attention_mask")
        self._route.subscriber.begin_pass(Pass(past, self.queries, cache, mask, arguments(module, args, kwargs)))

    def _refuse_added(self, past: int, queries: int | None) -> None:
        """Refuse a first pass over more positions than the caller gave, because all positions would be shifted."""
        given, self._given = self._given, None
        if given is None or queries is None:
            return
        count, cached = given
        added = max(past - cached, queries - count)  # a prompt in chunks has fewer queries
        if added > 0:
            raise RecordingError(
                f"the model was given a prompt of {count + cached} positions, but its decoder reads {added} more, as "
                "with virtual tokens (PEFT's prompt and prefix tuning), so every position is shifted: pass the decoder "
                "itself in place of the model (model.get_decoder()), and count the added positions"
            )

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._route.is_active:
            self._route.subscriber.end_pass(failed=output is None)


def _holds(whole: nn.Module, part: nn.Module) -> bool:
    return any(module is part for module in whole.modules())


def _tap(
    undo: ExitStack, route: Route, passes: _PassHooks, index: int, layer: nn.Module, lse: bool, backend: Backend
) -> None:
    """Emit calls of diffusers' dispatcher or of torch's attention function made while a layer runs."""
    entered: list[SdpaTap | DispatchTap] = []
    heads = head_count(layer)
    dispatched = backend != "sdpa" and uses_dispatcher(layer)

    def listen(call: AttentionCall, output: Tensor) -> None:
        if route.layer(layer) is not None:
            route.subscriber.observe(index, call, output)

    def edited(call: AttentionCall) -> AttentionCall:
        return call if route.layer(layer) is None else route.subscriber.edit(index, call)

    edit = edited if route.edits else None

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if route.is_active:
            tap = DispatchTap(listen, lse, edit) if dispatched else SdpaTap(listen, heads, passes.queries, lse, edit)
            tap.__enter__()
            entered.append(tap)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if route.is_active:
            release()

    def release() -> None:
        while entered:
            entered.pop().__exit__(None, None, None)

    undo.callback(layer.register_forward_pre_hook(_Hook(enter)).remove)
    undo.callback(layer.register_forward_hook(_Hook(leave), always_call=True).remove)
    undo.callback(release)  # a keyboard interrupt skips forward hooks


def _emit_residual(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    """Emit a layer's input."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if route.is_active and isinstance(hidden, Tensor):
            route.subscriber.residual(index, hidden)

    undo.callback(layer.register_forward_pre_hook(_Hook(before), with_kwargs=True).remove)


def _emit_outputs(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    """Emit the input of a layer's output projection, and replace it by the subscriber's."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = route.subscriber.gate(index, args[0]) if route.is_active else None
        return None if changed is None else (changed, *args[1:])

    undo.callback(output_projection(layer).register_forward_pre_hook(_Hook(before)).remove)
