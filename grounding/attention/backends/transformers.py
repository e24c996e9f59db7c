"""Emit the attention calls of modules that look up their kernel in transformers' registry.

Inside the block, the look-up returns a function that collects the edits of the current thread's subscribers, runs the
kernel and passes them the call and its output. Without an edit the kernel's output is returned unchanged. Threads
without a subscriber get the kernel itself. The model's config, and with it the kernel's name, is not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.call import AttentionCall
from grounding.attention.edits import run_edited
from grounding.attention.events import Route, active_routes
from grounding.attention.patches import SharedPatch
from grounding.compat import Kernel, is_flash, kernel_name, known_kernels, looked_up_kernels, sdpa_kernel
from grounding.errors import RecordingError


@contextmanager
def emitting() -> Iterator[None]:
    """Emit the calls of all modules that look up a kernel inside the block; it may be nested and used in threads."""
    _emitter.cache_clear()  # a name may have been registered anew
    with _PATCH.installed():
        yield


def uses_interface(layer: nn.Module) -> bool:
    """Whether some module of a layer looks up its attention kernel in transformers' registry.

    This is decided by the source of `forward`, as transformers does to decide whether a kernel can be changed; a class
    without source counts as not using the registry.

    Args:
        layer: one layer of a stack.
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


def refuse_kernel(config: Any) -> None:
    """Refuse a kernel whose calls cannot be followed, before the model runs.

    Args:
        config: a transformers config.

    Raises:
        RecordingError: the kernel is paged attention, flex attention, or not registered.
    """
    name = kernel_name(config)
    if name.startswith("paged|") or "flex" in name:
        raise RecordingError(
            f"the model runs with the attention kernel {name!r}, whose rows cannot be followed; expected 'sdpa', a "
            "flash kernel or 'eager'. Call model.set_attn_implementation('sdpa') first"
        )
    if name != "eager" and name not in known_kernels():
        raise RecordingError(
            f"the model's attention kernel {name!r} is not registered with transformers; expected one of "
            f"{', '.join(known_kernels())}"
        )


def _emitting_kernel(name: str, kernel: Kernel) -> Kernel:
    return _emitter(name, kernel) if active_routes() else kernel


@cache
def _emitter(name: str, kernel: Kernel) -> Kernel:
    return partial(_emit, name, is_flash(name), kernel)


_PATCH = SharedPatch(lambda: looked_up_kernels(_emitting_kernel))


def _emit(
    name: str,
    flash: bool,
    kernel: Kernel,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *args: Any,
    **options: Any,
) -> Any:
    wanted: list[tuple[Route, int]] = [
        (route, layer) for route in active_routes() if (layer := route.layer(module)) is not None
    ]
    if not wanted:
        return kernel(module, query, key, value, attention_mask, *args, **options)
    if torch.compiler.is_compiling():
        raise RecordingError(
            "the model is being compiled while it is recorded or steered; run it uncompiled, with generate's "
            "disable_compile=True for a static cache"
        )
    call = _described(module, query, key, value, attention_mask, options, flash=flash, eager=name == "eager")
    for route, layer in wanted:
        if route.edits:
            call = route.subscriber.edit(layer, call)
    if call.edits:
        # Flash kernels do not support an additive mask per head; torch's kernel does.
        result: Any = run_edited(sdpa_kernel() if flash else kernel, module, call, attention_mask, args, options)
    else:
        result = kernel(module, query, key, value, attention_mask, *args, **options)
    for route, layer in wanted:
        route.subscriber.observe(layer, call, result[0])
    return result


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
    """Convert a kernel's arguments to an `AttentionCall`.

    Raises:
        RecordingError: the mask or an option is of a form whose rows cannot be recomputed.
    """
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
        causal = False  # eager attention has no flag; its mask contains causality
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
        dropout=float(options.get("dropout") or 0.0),
    )
