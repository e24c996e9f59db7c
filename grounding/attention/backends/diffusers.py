"""Emit the attention calls of modules whose processor goes through diffusers' dispatcher.

Inside the block every entry of the dispatcher's table is replaced by a function that runs the entry and passes the call
and its output to the taps of the current thread. Processors and the chosen backend stay as they are, and so does the
output, bit for bit, unless a tap edits the call. Kernels that the sdpa tap does not see (flash, sage, xformers, flex)
are seen here. Threads without a tap get the kernel itself.

Shape letters as in `grounding.attention.call`; the dispatcher's own layout is [B, N, H, D].
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.backends.sdpa import UNGROUPED, Editor, Listener, SdpaTap
from grounding.attention.call import AttentionCall
from grounding.attention.edits import run_edited
from grounding.attention.patches import SharedPatch
from grounding.compat import Kernel, dispatched_kernels, sdpa_kernel
from grounding.errors import RecordingError


def dispatching() -> AbstractContextManager[None]:
    """Emit the calls of diffusers' dispatcher inside the block; it may be nested and used in threads."""
    return _PATCH.installed()


class DispatchTap:
    """Pass every call of diffusers' dispatcher in this thread to a listener while the tap is entered.

    Args:
        listener: receives the call and its output [B, Q, H, Dv].
        log_sum_exp: ask the kernel for its log-sum-exp; edited calls, and calls of kernels that give none, carry none.
        edit: returns the call with edits, or as it is; None edits nothing. Edited calls run under torch's kernel.
    """

    def __init__(
        self,
        listener: Listener,
        log_sum_exp: bool = False,
        edit: Editor | None = None,
    ) -> None:
        self.listener = listener
        self.log_sum_exp = log_sum_exp
        self.edit = edit

    def __enter__(self) -> DispatchTap:
        """Follow the calls from here on."""
        _TAPS.set((*_TAPS.get(), self))
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop following calls."""
        _TAPS.set(tuple(tap for tap in _TAPS.get() if tap is not self))


_TAPS: ContextVar[tuple[DispatchTap, ...]] = ContextVar("grounding_dispatch_taps", default=())


def uses_dispatcher(layer: nn.Module) -> bool:
    """Whether the attention of a layer goes through diffusers' dispatcher.

    This is decided by the source of its processor; a processor without source counts as not using the dispatcher.

    Args:
        layer: an attention module of diffusers, or a block that holds one.
    """
    return any(_calls_dispatcher(kind) for kind in _processors(layer))


def has_processor(layer: nn.Module) -> bool:
    """Whether the attention of a layer is that of a diffusers model, whatever its processor calls.

    Args:
        layer: an attention module, or a block that holds one.
    """
    return bool(_processors(layer))


def _processors(layer: nn.Module) -> set[type]:
    return {type(found) for module in layer.modules() if (found := getattr(module, "processor", None)) is not None}


@cache
def _calls_dispatcher(kind: type) -> bool:
    try:
        return "dispatch_attention_fn" in inspect.getsource(kind.__call__)
    except (OSError, TypeError, AttributeError):
        return False


def _emitting_kernel(name: str, kernel: Kernel, arguments: frozenset[str]) -> Kernel:
    return partial(_emit, name, kernel, arguments)


def _emit(name: str, kernel: Kernel, arguments: frozenset[str], **given: Any) -> Tensor:
    taps = _TAPS.get()
    if not taps:
        return kernel(**given)
    if torch.compiler.is_compiling():
        raise RecordingError("the transformer is being compiled while it is recorded; run it uncompiled")
    call = _described(name, **given)
    for tap in taps:
        call = call if tap.edit is None else tap.edit(call)
    if call.edits:
        # Flash kernels do not support an additive mask per head; torch's kernel does.
        options = {"scaling": call.scale, "is_causal": False}
        output = run_edited(sdpa_kernel(), UNGROUPED, call, call.mask, (), options)[0]
    elif any(tap.log_sum_exp for tap in taps):
        output, log_sum_exp = _with_lse(name, kernel, arguments, given, call)
        call = replace(call, log_sum_exp=log_sum_exp)
    else:
        output = kernel(**given)
    for tap in taps:
        tap.listener(call, output)
    return output


def _with_lse(
    name: str, kernel: Kernel, arguments: frozenset[str], given: dict[str, Any], call: AttentionCall
) -> tuple[Tensor, Tensor | None]:
    """Run a kernel; return its output [B, Q, H, Dv] and its log-sum-exp [B, H, Q], or None where it gives none."""
    if name.startswith(("native", "_native")):
        seen: list[AttentionCall] = []
        with SdpaTap(lambda inner, _: seen.append(inner), log_sum_exp=True):
            output = kernel(**given)
        return output, seen[0].log_sum_exp if len(seen) == 1 else None
    # xformers takes the argument and refuses it; sage's kernels return the sum of other, smoothed keys.
    if "return_lse" not in arguments or "flash" not in name:
        return kernel(**given), None
    output, lse = kernel(**given, return_lse=True)
    queries = (call.query_count, call.head_count)
    if lse.shape[1:] == queries and queries[0] != queries[1]:
        lse = lse.transpose(1, 2)
    usable = lse.shape[1:] == queries[::-1] and queries[0] != queries[1]
    return output, lse.float() if usable else None


def _described(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    _parallel_config: Any = None,
    **options: Any,
) -> AttentionCall:
    """Convert the dispatcher's arguments to an `AttentionCall`.

    Raises:
        RecordingError: the call is of a form whose rows cannot be recomputed.
    """
    if _parallel_config is not None and getattr(_parallel_config, "context_parallel_config", None) is not None:
        raise RecordingError(
            "the transformer runs with context parallelism, where each process attends from a part of the sequence; "
            "expected one process that holds all of it"
        )
    if options.get("window_size", (-1, -1)) != (-1, -1):
        raise RecordingError(f"the kernel {name!r} attends within a window, which recorded maps would not show")
    if is_causal:
        raise RecordingError("the transformer attends causally; expected attention over the whole sequence")
    if attn_mask is not None and not isinstance(attn_mask, Tensor):
        raise RecordingError(
            f"the kernel {name!r} was given a mask of type {type(attn_mask).__name__}; expected none or a tensor. "
            "Call transformer.set_attention_backend('native') first"
        )
    mask = attn_mask
    if mask is not None:
        if mask.ndim == 2 and mask.shape == (query.shape[0], key.shape[1]):
            mask = mask[:, None, None]
        elif mask.ndim == 3:
            mask = mask[:, None]
        while mask.ndim < 4:
            mask = mask[None]
    return AttentionCall(
        query=query.detach().transpose(1, 2),
        key=key.detach().transpose(1, 2),
        value=value.detach().transpose(1, 2),
        mask=mask,
        scale=scale if scale is not None else query.shape[-1] ** -0.5,
        causal=False,
    )


_PATCH = SharedPatch(lambda: dispatched_kernels(_emitting_kernel))
