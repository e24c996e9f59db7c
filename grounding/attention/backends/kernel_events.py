"""Emit one attention call of a transformers module to the current thread's subscribers.

The kernel's arguments become an `AttentionCall`; the subscribers' edits are collected, the kernel runs, and the call
and its output are passed on, at once or at the end of the pass where the subscribers let them wait. Without an edit the
kernel's output is returned unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from grounding.attention.call import AttentionCall
from grounding.attention.edits import run_edited
from grounding.attention.events import Route, active_routes
from grounding.compat import Kernel, is_flash, sdpa_kernel
from grounding.errors import RecordingError

FOREIGN = {"cache": "a paged cache", "s_aux": "learned attention sinks in the softmax"}
"""Options of a kernel with which its rows are not a softmax over the sequence's own keys, as compiled code names them.

Of learned sinks uncompiled code sees the logits, and records them; see `AttentionCall.sink_logits`.
"""

OPTIONS = ("is_causal", "scaling", "sliding_window", "softcap", "position_bias", "dropout", *FOREIGN)
"""All options of a kernel that a call is described by."""


def emit(
    name: str,
    kernel: Kernel,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *args: Any,
    **options: Any,
) -> Any:
    """Run a kernel with the edits of the subscribers of its module, and pass them the call and its output.

    Args:
        name: the kernel's name in transformers' registry.
        kernel: the kernel.
        module: the attention module that calls it.
        query: [B, H, Q, D].
        key: [B, H/G, K, D].
        value: [B, H/G, K, Dv].
        attention_mask: as the model passes it.
        args: further positional arguments of the kernel.
        options: its keyword arguments.

    Returns:
        What the kernel returns: (output [B, Q, H, Dv], weights or None).

    Raises:
        RecordingError: the mask or an option is of a form whose rows cannot be recomputed; of calls that wait,
            `emit_waiting` says it.
    """
    routes = active_routes()
    for route in routes:
        if attention_mask is not None or route.waiting is None or len(route.waiting) == route.most_waiting:
            break
    else:  # whether they reach the module costs less to ask at the end
        result = kernel(module, query, key, value, attention_mask, *args, **options)
        for route in routes:
            route.waiting.append((name, module, query, key, value, options, result[0]))  # type: ignore[union-attr]
        return result
    reached = [(route, layer) for route in routes if (layer := route.layer_of.get(id(module))) is not None]
    waiting = [route.waiting for route, _ in reached if route.waiting is not None]
    if attention_mask is None and len(waiting) == len(reached):
        result = kernel(module, query, key, value, attention_mask, *args, **options)
        for calls in waiting:
            calls.append((name, module, query, key, value, options, result[0]))
        return result
    wanted = [(route, layer) for route, layer in reached if route.subscriber.wants(layer)]
    if not wanted:
        return kernel(module, query, key, value, attention_mask, *args, **options)
    call = _described(name, module, query, key, value, attention_mask, options)
    for route, layer in wanted:
        if route.edits:
            call = route.subscriber.edit(layer, call)
    if call.edits:
        flash = is_flash(name)
        if flash and call.sink_logits is not None:
            raise RecordingError(
                f"{type(module).__name__} has learned attention sinks, which torch's kernel lacks, so its calls "
                "under a flash kernel cannot be edited: call model.set_attn_implementation('eager') first"
            )
        # Flash kernels do not support an additive mask per head; torch's kernel does.
        result = run_edited(sdpa_kernel() if flash else kernel, module, call, attention_mask, args, options)
    else:
        result = kernel(module, query, key, value, attention_mask, *args, **options)
    for route, layer in wanted:
        route.subscriber.observe(layer, call, result[0])
    return result


def emit_waiting(route: Route) -> None:
    """Emit the calls that have waited for the end of the pass.

    Raises:
        RecordingError: an option is of a form whose rows cannot be recomputed.
    """
    waiting, route.waiting = route.waiting, None
    for name, module, query, key, value, options, output in waiting or ():
        layer, subscriber = route.layer_of.get(id(module)), route.subscriber
        if layer is None:
            continue
        if not subscriber.observe_repeated(layer, query, key, _option_values(options)) and subscriber.wants(layer):
            subscriber.observe(layer, _described(name, module, query, key, value, None, options), output)


def observed(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    options: dict[str, Any],
    output: Tensor,
) -> None:
    """Pass a call that has run already, unedited, to the subscribers of its module; see `emit` for the arguments."""
    wanted = [(route, layer) for route in active_routes() if (layer := route.layer(module)) is not None]
    if not wanted:
        return
    call = _described(name, module, query, key, value, attention_mask, options)
    for route, layer in wanted:
        route.subscriber.observe(layer, call, output)


def _option_values(options: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(map(options.get, OPTIONS))


def _described(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: dict[str, Any]
) -> AttentionCall:
    """Convert a kernel's arguments to an `AttentionCall`.

    Raises:
        RecordingError: the mask or an option is of a form whose rows cannot be recomputed.
    """
    sinks = options.get("s_aux")
    for option, meaning in FOREIGN.items():
        if options.get(option) is not None and not (option == "s_aux" and isinstance(sinks, Tensor)):
            raise RecordingError(
                f"{type(module).__name__} attends with {meaning}, which recorded rows would not show; expected a "
                "softmax over the sequence's own keys"
            )
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim in (2, 4)):
        raise RecordingError(
            f"{type(module).__name__} was given a mask of type {type(mask).__name__}; expected none, a 2-D padding "
            "mask or a 4-D mask. Call model.set_attn_implementation('sdpa') first"
        )
    flash = is_flash(name)
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if name == "eager":
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
        sink_logits=sinks.detach().reshape(-1) if isinstance(sinks, Tensor) else None,
        options=_option_values(options),
    )
