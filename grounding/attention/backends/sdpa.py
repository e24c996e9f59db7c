"""Emit the attention calls of modules that call torch's `scaled_dot_product_attention` directly.

Shape letters as in `grounding.attention.call`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from grounding.attention.call import AttentionCall
from grounding.attention.edits import run_edited
from grounding.compat import attention_with_lse, layer_settings, sdpa_kernel

Listener = Callable[[AttentionCall, Tensor], None]
Editor = Callable[[AttentionCall], AttentionCall]

UNGROUPED = nn.Identity()
"""A module that shares no key heads, for transformers' kernel."""

_TAPS: ContextVar[tuple[SdpaTap, ...]] = ContextVar("grounding_sdpa_taps", default=())
"""The taps that are active in this thread or async task, outermost first."""

_INSIDE: ContextVar[bool] = ContextVar("grounding_sdpa_inside", default=False)
"""Whether an edited call is being computed, whose parts are no calls of the model."""

_SDPA = torch.nn.functional.scaled_dot_product_attention


class SdpaTap(TorchFunctionMode):
    """Pass every `F.scaled_dot_product_attention` call of this thread to a listener while the mode is active.

    The call's result is returned unchanged unless a tap edits the call. Fused kernels that bypass the function, and
    compiled code, are not seen.

    Args:
        listener: receives the call and its output [B, Q, H, Dv].
        heads: H of the layer, if known.
        queries: Q of the running pass, if known.
        log_sum_exp: ask the kernel for its log-sum-exp, which leaves the output bit for bit as it is; calls of kernels
            that give none, and calls inside another tap, carry none.
        edit: returns the call with edits, or as it is; None edits nothing. An edited call is what all taps are passed.

    Notes:
        From transformers 5.23 on, a masked grouped-query decode step packs the query heads of a key head into the
        query axis, (B, H/G, G, D) in place of (B, H, 1, D). Such a call is unpacked; `heads` and `queries` are needed
        to recognise it.
    """

    def __init__(
        self,
        listener: Listener,
        heads: int | None = None,
        queries: int | None = None,
        log_sum_exp: bool = False,
        edit: Editor | None = None,
    ) -> None:
        super().__init__()
        self._listener = listener
        self._heads = heads
        self._queries = queries
        self._log_sum_exp = log_sum_exp
        self._edit = edit

    def __enter__(self) -> SdpaTap:
        """Follow the calls from here on."""
        super().__enter__()
        _TAPS.set((*_TAPS.get(), self))
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop following calls."""
        _TAPS.set(tuple(tap for tap in _TAPS.get() if tap is not self))
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, and pass it to the listener if it is attention."""
        kwargs = kwargs or {}
        if func is _SDPA and _INSIDE.get():
            return func(*args, **kwargs)
        taps = _TAPS.get()
        # The innermost tap comes first and edits for all, because the others only see what it calls.
        if func is _SDPA and taps[-1:] == (self,) and (call := _edited(taps, args, kwargs)) is not None:
            return _run(taps, call)
        # The function that returns the sum is another one, which an outer tap would not see.
        found = None
        if func is _SDPA and self._log_sum_exp and len(taps) == 1:
            found = attention_with_lse(*args, **kwargs)
        result, log_sum_exp = found if found is not None else (func(*args, **kwargs), None)
        # Torch disables a mode inside its own handler, so calls made by the listener are not reported.
        if func is _SDPA:
            call = _described(*args, **kwargs)
            if call is not None:
                call = call if log_sum_exp is None else replace(call, log_sum_exp=log_sum_exp)
                if self._is_packed(call):
                    call, result_ = _unpacked(call, result)
                    self._listener(call, result_.transpose(1, 2))
                else:
                    self._listener(call, result.transpose(1, 2))
        return result

    def _is_packed(self, call: AttentionCall) -> bool:
        return (
            self._queries == 1
            and self._heads is not None
            and call.query_count > 1
            and call.head_count < self._heads
            and call.head_count * call.query_count == self._heads
        )


def _edited(taps: tuple[SdpaTap, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> AttentionCall | None:
    """The call with all taps' edits; None where no tap edits it."""
    edits = [tap._edit for tap in taps if tap._edit is not None]
    call = _described(*args, **kwargs) if edits else None
    for edit in edits:
        call = None if call is None else edit(call)
    return call if call is not None and call.edits else None


def _run(taps: tuple[SdpaTap, ...], call: AttentionCall) -> Tensor:
    """Run an edited call, and pass it to every tap; returns the output [B, H, Q, Dv]."""
    token = _INSIDE.set(True)
    try:
        options = {"scaling": call.scale, "is_causal": False, "dropout": call.dropout}
        output, _ = run_edited(sdpa_kernel(), UNGROUPED, call, call.mask, (), options)
        for tap in taps:
            tap._listener(call, output)
    finally:
        _INSIDE.reset(token)
    return output.transpose(1, 2)


def head_count(layer: nn.Module) -> int | None:
    """Read H of a layer from the config of one of its modules; None where no config has it."""
    for module in layer.modules():
        heads = layer_settings(getattr(module, "config", None), "num_attention_heads")
        if heads:
            return heads[0]
    return None


def _unpacked(call: AttentionCall, output: Tensor) -> tuple[AttentionCall, Tensor]:
    """Reshape queries (B, H/G, G, D) of one position to (B, H, 1, D), with mask and output."""
    batch, shared, group = call.query.shape[:3]
    mask = call.mask
    if mask is not None and mask.shape[1] > 1:
        mask = mask.reshape(mask.shape[0], shared * group, 1, mask.shape[-1])
    unpacked = AttentionCall(
        query=call.query.reshape(batch, shared * group, 1, -1),
        key=call.key,
        value=call.value,
        mask=mask,
        scale=call.scale,
        causal=False,
        dropout=call.dropout,
    )
    return unpacked, output.reshape(batch, shared * group, 1, -1)


def _described(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall | None:
    """Convert the arguments to an `AttentionCall`; None if they have no batch and head axes."""
    if query.ndim != 4:
        return None
    mask = attn_mask
    if mask is not None:
        while mask.ndim < 4:
            mask = mask[None]
    return AttentionCall(
        query=query.detach(),
        key=key.detach(),
        value=value.detach(),
        mask=mask,
        scale=scale if scale is not None else query.shape[-1] ** -0.5,
        causal=is_causal,
        dropout=dropout_p,
    )
