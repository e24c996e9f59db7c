"""Find layers, wrap kernels and follow passes of a model, and emit attention events (`intercept`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from grounding.attention.backends.compiled import (
    ResidualHook,
    compiled_before,
    compiled_parts,
    module_number,
    own_code,
    refuse_compiled,
)
from grounding.attention.backends.diffusers import DispatchTap, dispatching, has_processor, uses_dispatcher
from grounding.attention.backends.kernel_events import emit_waiting
from grounding.attention.backends.linear import emitting_linear
from grounding.attention.backends.sdpa import SdpaTap, head_count
from grounding.attention.backends.transformers import emitting, refuse_kernel, uses_interface
from grounding.attention.call import AttentionCall
from grounding.attention.events import Route, Scope, Subscriber, opened
from grounding.attention.generation import following
from grounding.attention.introspect import (
    LayerStack,
    decoder_stack,
    output_projection,
)
from grounding.attention.passes import PassHooks, PassingHook
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
            requested of layers that use neither the registry nor a processor of diffusers; or inside the block a layer
            of the scope was compiled.
    """
    if backend not in get_args(Backend):
        raise RecordingError(f"backend {backend!r} is unknown: use one of {', '.join(get_args(Backend))}")
    stack = stack if stack is not None else decoder_stack(model)
    refuse_missing(scope, stack)
    outside = [i for i in scope.calls if not uses_interface(stack.layers[i])]
    compiled = compiled_parts(model)
    if compiled:
        refuse_compiled(stack, scope, outside)
        if scope.linear:
            raise RecordingError(
                "layers of linear attention are recorded of code that is not compiled: run the model without "
                "torch.compile, or record its layers of softmax attention"
            )
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
        undo.enter_context(compiled_before(model, route, compiled))
        own = partial(own_code, stack, scope, outside)
        passes = PassHooks(undo, route, model, stack.module, own, partial(emit_waiting, route))
        if compiled:
            undo.enter_context(own_code(stack, scope, outside))
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
        for i in scope.linear:
            undo.enter_context(emitting_linear(route, i, stack.layers[i]))
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
    for i in (*scope.calls, *scope.residuals, *scope.gates, *scope.linear):
        if not 0 <= i < count:
            raise RecordingError(f"layer {i} does not exist: the model has {count} (0 to {count - 1})")


def _tap(
    undo: ExitStack, route: Route, passes: PassHooks, index: int, layer: nn.Module, lse: bool, backend: Backend
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

    undo.callback(layer.register_forward_pre_hook(PassingHook(enter)).remove)
    undo.callback(layer.register_forward_hook(PassingHook(leave), always_call=True).remove)
    undo.callback(release)  # a keyboard interrupt skips forward hooks


def _emit_residual(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    """Emit a layer's input."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if route.is_active and isinstance(hidden, Tensor):
            route.subscriber.residual(index, hidden)

    hook = ResidualHook(PassingHook(before), module_number(layer))
    undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _emit_outputs(undo: ExitStack, route: Route, index: int, layer: nn.Module) -> None:
    """Emit the input of a layer's output projection, and replace it by the subscriber's."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = route.subscriber.gate(index, args[0]) if route.is_active else None
        return None if changed is None else (changed, *args[1:])

    undo.callback(output_projection(layer).register_forward_pre_hook(PassingHook(before)).remove)
