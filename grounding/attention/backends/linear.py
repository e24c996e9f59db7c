"""Emit the calls of layers that attend by the gated delta rule, as in Qwen3-Next and Qwen3.5.

transformers calls the rule as a function of the modeling file, outside its registry of kernels. Inside the block that
function runs as it is, whichever kernel it is, and passes its arguments and output to the taps of the current thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from grounding.attention.events import Route
from grounding.attention.linear_rows import DeltaCall
from grounding.attention.passes import PassingHook
from grounding.attention.patches import SharedPatch
from grounding.compat import Kernel, delta_module, delta_rule_owner, wrapped_delta_rules
from grounding.errors import RecordingError

Listener = Callable[[DeltaCall, Tensor], None]
_TAPS: ContextVar[tuple[Listener, ...]] = ContextVar("grounding_delta_taps", default=())
_PATCHES: WeakKeyDictionary[Any, SharedPatch] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def emitting_linear(route: Route, index: int, layer: nn.Module) -> Iterator[None]:
    """Emit the calls of the gated delta rule that a layer makes inside the block.

    Args:
        route: where the calls go.
        index: the layer's number.
        layer: the layer.

    Raises:
        RecordingError: the layer does not attend by the gated delta rule.
    """
    module = delta_module(layer)
    if module is None:
        raise RecordingError(f"layer {index} ({type(layer).__name__}) does not attend by the gated delta rule")

    def listen(call: DeltaCall, output: Tensor) -> None:
        if route.layer(module) is not None:
            route.subscriber.observe_linear(index, call, output)

    def enter(*_: Any) -> None:
        if route.is_active:
            _TAPS.set((*_TAPS.get(), listen))

    def leave(*_: Any) -> None:
        _TAPS.set(tuple(tap for tap in _TAPS.get() if tap is not listen))

    with ExitStack() as undo:
        undo.enter_context(_patch(delta_rule_owner(module)).installed())
        undo.callback(leave)  # a keyboard interrupt skips forward hooks
        undo.callback(module.register_forward_pre_hook(PassingHook(enter)).remove)
        undo.callback(module.register_forward_hook(PassingHook(leave), always_call=True).remove)
        yield


def _patch(owner: Any) -> SharedPatch:
    with _LOCK:
        if owner not in _PATCHES:
            _PATCHES[owner] = SharedPatch(partial(wrapped_delta_rules, owner, _emitting_rule))
        return _PATCHES[owner]


def _emitting_rule(rule: Kernel) -> Kernel:
    return partial(_emit, rule)


def _emit(rule: Kernel, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
    result = rule(query, key, value, *args, **options)
    taps = () if torch.compiler.is_compiling() else _TAPS.get()
    if taps:
        call = _described(query, key, value, *args, **options)
        for tap in taps:
            tap(call, result[0])
    return result


def _described(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Any = None,
    **_: Any,
) -> DeltaCall:
    """Convert the rule's arguments to a `DeltaCall`.

    Raises:
        RecordingError: several sequences are packed into one.
    """
    if cu_seqlens is not None:
        raise RecordingError(
            "several sequences are packed into one, so a layer of linear attention has no rows over it: run them as a "
            "padded batch"
        )
    return DeltaCall(
        query=query.detach(),
        key=key.detach(),
        value=value.detach(),
        decay=g.detach(),
        beta=beta.detach(),
        scale=scale if scale is not None else query.shape[-1] ** -0.5,
        normalised=use_qk_l2norm_in_kernel,
    )
