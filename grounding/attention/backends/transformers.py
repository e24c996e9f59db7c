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
from torch import nn

from grounding.attention.backends.compiled import TracedKernel
from grounding.attention.backends.kernel_events import emit
from grounding.attention.events import active_routes
from grounding.attention.patches import SharedPatch
from grounding.compat import Kernel, kernel_name, known_kernels, looked_up_kernels
from grounding.errors import RecordingError


@contextmanager
def emitting() -> Iterator[None]:
    """Emit the calls of all modules that look up a kernel inside the block; it may be nested and used in threads."""
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
    if torch.compiler.is_compiling():
        return TracedKernel(name, kernel)
    return partial(emit, name, kernel) if active_routes() else kernel


_PATCH = SharedPatch(lambda: looked_up_kernels(_emitting_kernel, active_routes))
