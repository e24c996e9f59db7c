"""How transformers' attention calls reach an observer: names in its two registries, and back again.

A decoder looks its kernel up by the name in its config at every call, and a mask builder by the same name in a second
registry. While somebody records or steers, the config says another name under which both are registered: a function
that asks the interveners of this thread what to change, calls the stock kernel and shows the call to the observers; and
the stock mask builder. Without an intervener the kernel's output is returned untouched. Kernels that read their own
name back from the config (flash) keep it and are covered in the registry instead.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grounding.attention.rows import AttentionCall
from grounding.attention.turn import run_edited
from grounding.errors import RecordingError

NEUTRAL = "grounding_rows"
"""Our name in the registries; free of the words by which transformers recognises kinds of kernels."""


class Observer(Protocol):
    """Somebody who wants to see attention calls."""

    def layer_of(self, module: nn.Module) -> int | None:
        """The decoder layer `module` belongs to, or None if it is not the observer's business."""

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """Look at one call and its output [B, Q, H, Dv]; change neither."""


class Intervener(Protocol):
    """Somebody who changes attention weights."""

    def layer_of(self, module: nn.Module) -> int | None:
        """The decoder layer `module` belongs to, or None if it is not the intervener's business."""

    def intervene(self, layer: int, call: AttentionCall) -> AttentionCall:
        """The call with one more change and its offsets filled in; the very same call where nothing is to change."""


_OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("grounding_attention_observers", default=())


@contextmanager
def watching(observer: Observer) -> Iterator[None]:
    """Show attention calls made in this thread (or async task) to `observer` for the length of the block."""
    token = _OBSERVERS.set((*_OBSERVERS.get(), observer))
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


def is_watching(observer: Observer) -> bool:
    """Whether `observer` was set up in this thread (or async task) and not in another one using the same model."""
    return any(known is observer for known in _OBSERVERS.get())


_INTERVENERS: ContextVar[tuple[Intervener, ...]] = ContextVar("grounding_attention_interveners", default=())


@contextmanager
def intervening(intervener: Intervener) -> Iterator[None]:
    """Let `intervener` change this thread's attention calls for the length of the block, after those set up before."""
    token = _INTERVENERS.set((*_INTERVENERS.get(), intervener))
    try:
        yield
    finally:
        _INTERVENERS.reset(token)


@contextmanager
def unsteered() -> Iterator[None]:
    """Run passes as the model makes them inside a steered block, for example over a prompt without the image."""
    token = _INTERVENERS.set(())
    try:
        yield
    finally:
        _INTERVENERS.reset(token)


def is_intervening(intervener: Intervener) -> bool:
    """Whether `intervener` is at work in this thread (or async task), and not in another one using the same model."""
    return any(known is intervener for known in _INTERVENERS.get())


def uses_interface(layer: nn.Module) -> bool:
    """Whether a decoder layer's attention looks its kernel up in transformers' registry.

    Args:
        layer: one decoder layer.

    Returns:
        True if some module in it does. Read from the source of `forward`, as transformers itself does to decide
        whether a kernel can be changed; a class without source counts as not using it.
    """
    kinds = {type(module) for module in layer.modules()}
    return any(_reads_registry(kind) for kind in kinds)  # type: ignore[arg-type]  # classes can be hashed


@cache
def _reads_registry(kind: type) -> bool:
    for owner in kind.__mro__:
        forward = owner.__dict__.get("forward")
        if forward is None:
            continue
        try:
            if "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(inspect.unwrap(forward)):
                return True
        except (OSError, TypeError):
            continue
    return False


@contextmanager
def switched(configs: Sequence[Any]) -> Iterator[None]:
    """Route the attention of every module that reads one of `configs` past the observers.

    Nested and concurrent use of one config is counted: the first switches, the last restores. Threads without an
    observer get the stock kernel's output as before.

    Args:
        configs: the language model's configs (attention modules and mask builders may hold different objects).

    Raises:
        RecordingError: for a kernel whose attention cannot be followed.
    """
    unique = list({id(config): config for config in configs}.values())
    with ExitStack() as stack:
        for config in unique:
            stack.enter_context(_switched_config(config))
        yield


@dataclass
class _Switch:
    config: Any
    previous: str
    name: str
    users: int = 0


_LOCK = threading.RLock()
_SWITCHES: dict[int, _Switch] = {}
_ENTRIES: dict[str, tuple[int, Any]] = {}  # registry name → (users, what was there before)


@contextmanager
def _switched_config(config: Any) -> Iterator[None]:
    with _LOCK:
        switch = _SWITCHES.get(id(config))
        if switch is None:
            previous = config._attn_implementation
            switch = _Switch(config, previous, _install(previous))
            _SWITCHES[id(config)] = switch
            _set(config, switch.name)
        switch.users += 1
    try:
        yield
    finally:
        with _LOCK:
            switch.users -= 1
            if switch.users == 0:
                del _SWITCHES[id(config)]
                # Somebody may have chosen another kernel meanwhile; theirs stays.
                if config._attn_implementation == switch.name:
                    _set(config, switch.previous)
                _uninstall(switch.name)


def _set(config: Any, name: str) -> None:
    # The public setter also writes into sub-configs, the public `set_attn_implementation` checks for packages by name.
    config._attn_implementation_internal = name


def _install(implementation: str | None) -> str:
    """Register the route for a stock kernel and return the name the config must say."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if implementation is None:
        implementation = "eager"
    if implementation.startswith("paged|") or "flex" in implementation:
        raise RecordingError(
            f"the model runs with the attention kernel {implementation!r}, whose rows cannot be followed; expected "
            "'sdpa', a flash kernel or 'eager'. Call model.set_attn_implementation('sdpa') first"
        )
    masks = dict(ALL_MASK_ATTENTION_FUNCTIONS)
    if implementation == "eager":
        name, kernel = f"{NEUTRAL}_eager", None
    elif implementation in ALL_ATTENTION_FUNCTIONS:
        kernel = ALL_ATTENTION_FUNCTIONS[implementation]
        # Only sdpa is known not to read its own name back; every other kernel keeps it.
        name = NEUTRAL if implementation == "sdpa" else implementation
    else:
        raise RecordingError(
            f"the model's attention kernel {implementation!r} is not registered with transformers; expected one of "
            f"{', '.join(sorted(ALL_ATTENTION_FUNCTIONS))}"
        )
    users, before = _ENTRIES.get(name, (0, AttentionInterface._global_mapping.get(name)))
    _ENTRIES[name] = (users + 1, before)
    if users == 0:
        flash = masks.get(implementation) is not None and masks[implementation] is masks.get("flash_attention_2")
        AttentionInterface.register(name, _recording_kernel(kernel, flash=flash))
        if name != implementation and implementation in masks:
            AttentionMaskInterface.register(name, masks[implementation])
    return name


def _uninstall(name: str) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    users, before = _ENTRIES.pop(name)
    if users > 1:
        _ENTRIES[name] = (users - 1, before)
    elif before is not None:
        AttentionInterface._global_mapping[name] = before
    else:
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def _recording_kernel(kernel: Callable[..., Any] | None, *, flash: bool) -> Callable[..., Any]:
    """Wrap a stock kernel; None stands for eager attention, which every model file defines for itself."""

    def grounding_rows(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        stock = kernel if kernel is not None else _eager_kernel(module)
        interveners = [(i, layer) for i in _INTERVENERS.get() if (layer := i.layer_of(module)) is not None]
        observers = [(o, layer) for o in _OBSERVERS.get() if (layer := o.layer_of(module)) is not None]
        if not interveners and not observers:
            return stock(module, query, key, value, attention_mask, *args, **kwargs)
        if torch.compiler.is_compiling():
            raise RecordingError(
                "the model is being compiled while it is recorded or steered; run it uncompiled, with generate's "
                "disable_compile=True for a static cache"
            )
        call = _described(module, query, key, value, attention_mask, kwargs, flash=flash, eager=kernel is None)
        for intervener, layer in interveners:
            call = intervener.intervene(layer, call)
        if call.changes:
            result = run_edited(_masking(stock, flash=flash), module, call, attention_mask, args, kwargs)
        else:
            result = stock(module, query, key, value, attention_mask, *args, **kwargs)
        for observer, layer in observers:
            observer.observe(layer, call, result[0])
        return result

    return grounding_rows


def _masking(kernel: Callable[..., Any], *, flash: bool) -> Callable[..., Any]:
    """A kernel that takes an additive mask per head; torch's own where the stock one takes none."""
    if not flash:
        return kernel
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS["sdpa"]


def _eager_kernel(module: nn.Module) -> Callable[..., Any]:
    for owner in type(module).__mro__:
        kernel = getattr(sys.modules.get(owner.__module__), "eager_attention_forward", None)
        if kernel is not None:
            return kernel
    raise RecordingError(
        f"{type(module).__name__} runs eager attention that its file does not name 'eager_attention_forward'; call "
        "model.set_attn_implementation('sdpa') first"
    )


def _described(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    options: dict[str, Any],
    *,
    flash: bool,
    eager: bool,
) -> AttentionCall:
    """The call in one form, whatever the kernel's own conventions."""
    for option, meaning in (("cache", "a paged cache"), ("s_aux", "learned attention sinks in the softmax")):
        if options.get(option) is not None:
            raise RecordingError(
                f"{type(module).__name__} attends with {meaning}, which recorded rows would not show; expected a "
                "softmax over the sequence's own keys"
            )
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim in (2, 4)):
        raise RecordingError(
            f"{type(module).__name__} was given a mask of type {type(mask).__name__}; expected none, a 2-D padding "
            "mask or a 4-D mask. Call model.set_attn_implementation('sdpa') first"
        )
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if eager:
        causal = False  # eager attention knows no flag: all of causality is in its mask
    elif not flash:
        causal = causal and mask is None and query.shape[2] > 1
    scale = options.get("scaling")
    return AttentionCall(
        query=query,
        key=key,
        value=value,
        mask=mask,
        scale=float(scale) if scale is not None else query.shape[-1] ** -0.5,
        causal=causal,
        window=options.get("sliding_window") if flash else None,
        softcap=options.get("softcap"),
        bias=options.get("position_bias"),
    )
