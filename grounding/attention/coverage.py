"""Say which layers of a model can be recorded: those whose weights are a softmax over the sequence's own keys."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from torch import nn

from grounding.attention.call import AttentionCall
from grounding.attention.introspect import LayerStack
from grounding.compat import delta_module
from grounding.errors import RecordingError

_ENTRIES = ("ALL_ATTENTION_FUNCTIONS", "scaled_dot_product_attention", "sdpa_attention_forward")
"""Names in the source of classes whose attention calls are emitted."""


def refuse_layers(stack: LayerStack, chosen: Collection[int]) -> None:
    """Refuse layers that cannot be recorded, before the model runs.

    The source of transformers' classes decides; a class of another package may attend in ways that its source does not
    show, so its layers pass.

    Args:
        stack: the decoder.
        chosen: layers to record.

    Raises:
        RecordingError: a layer has no attention that is emitted, or attends only to keys that are not the sequence.
    """
    kinds = [_kind(layer) for layer in stack.layers]
    name = type(stack.module).__name__
    fit = [i for i, kind in enumerate(kinds) if kind == "sequence"]
    if bad := [i for i in sorted(chosen) if kinds[i] == "none"]:
        if not fit:
            raise RecordingError(
                f"{name} cannot be recorded: its layers have no attention, or compute it without transformers' "
                "attention interface and torch's scaled_dot_product_attention; use another model"
            )
        linear = linear_layers(stack)
        also = f" (layers {_short(linear)} have with RecordSpec(attention='linear'))" if linear else ""
        raise RecordingError(
            f"layers {_short(bad)} of {name} have no softmax attention that can be recorded, as linear attention and "
            f"convolutions have none: {_others(fit)}{also}"
        )
    if bad := [i for i in sorted(chosen) if kinds[i] == "cross"]:
        raise RecordingError(
            f"layers {_short(bad)} of {name} attend to keys that are not the sequence (cross-attention to an image or "
            f"an encoder), so their columns have no positions: record them with RecordSpec(attention='cross'), or "
            f"{_others(fit)}"
        )


def row_layers(stack: LayerStack) -> tuple[int, ...]:
    """The layers that can be recorded and edited: those that attend to the sequence; all of an unknown package's.

    Args:
        stack: the decoder.
    """
    return tuple(i for i, layer in enumerate(stack.layers) if _kind(layer) == "sequence")


def linear_layers(stack: LayerStack) -> tuple[int, ...]:
    """The layers that attend by the gated delta rule, whose weights can be recorded as `RecordSpec.attention` says.

    Args:
        stack: the decoder.
    """
    return tuple(i for i, layer in enumerate(stack.layers) if delta_module(layer) is not None)


def cross_layers(stack: LayerStack) -> tuple[int, ...]:
    """The layers of cross-attention alone, whose weights can be recorded as `RecordSpec.attention` says.

    Args:
        stack: the decoder.
    """
    return tuple(i for i, layer in enumerate(stack.layers) if _kind(layer) == "cross")


def refuse_sequence_layers(stack: LayerStack, chosen: Collection[int]) -> None:
    """Refuse layers that are not of cross-attention, before the model runs.

    Raises:
        RecordingError: there is one.
    """
    fit, name = cross_layers(stack), type(stack.module).__name__
    if not fit:
        raise RecordingError(
            f"{name} has no layers of cross-attention: record its rows over the sequence with "
            "RecordSpec(attention='softmax')"
        )
    if bad := [i for i in sorted(chosen) if i not in fit]:
        raise RecordingError(f"layers {_short(bad)} of {name} are not of cross-attention: {_others(fit)}")


def refuse_other_layers(stack: LayerStack, chosen: Collection[int]) -> None:
    """Refuse layers that do not attend by the gated delta rule, before the model runs.

    Raises:
        RecordingError: there is one.
    """
    fit = linear_layers(stack)
    name = type(stack.module).__name__
    if not fit:
        raise RecordingError(
            f"{name} has no layers of linear attention that can be recorded (the gated delta rule, as in Qwen3.5): "
            "record its softmax attention with RecordSpec(attention='softmax')"
        )
    if bad := [i for i in sorted(chosen) if i not in fit]:
        raise RecordingError(
            f"layers {_short(bad)} of {name} do not attend by the gated delta rule, so they have no weights of linear "
            f"attention: {_others(fit)}"
        )


def refuse_other_keys(layer: int, call: AttentionCall, past: int, cache: Any) -> None:
    """Refuse a call whose keys are not the positions of the sequence.

    A cache holds every position, or fewer where a sliding window has dropped some, or more where it is static.

    Args:
        layer: the decoder layer.
        call: the call.
        past: positions in the cache before the pass.
        cache: the pass's key/value cache.

    Raises:
        RecordingError: the number of keys fits no cache of the sequence.
    """
    keys, total = call.key_count, past + call.query_count
    dropped = past > 0 and call.query_count <= keys < total and _slides(cache)
    spare = keys > total and bool(getattr(cache, "is_compileable", False))
    if keys != total and not dropped and not spare:
        raise RecordingError(
            f"layer {layer} attends to {keys} keys where the sequence has {total} positions, as cross-attention does, "
            "so its columns have no positions: choose other layers"
        )


def _slides(cache: Any) -> bool:
    layers = getattr(cache, "layers", None)
    return layers is None or any(getattr(layer, "is_sliding", False) for layer in layers)


def _kind(layer: nn.Module) -> str:
    told = [(module, _attends(type(module))) for module in layer.modules()]  # type: ignore[arg-type]
    known = [module for module, attends in told if attends]
    if known:
        return "cross" if all(_is_cross(module) for module in known) else "sequence"
    return "none" if all(attends is False for _, attends in told) else "sequence"


def _is_cross(module: nn.Module) -> bool:
    flag = getattr(module, "is_cross_attention", None)
    return bool(flag) if isinstance(flag, bool) else "crossattention" in type(module).__name__.lower()


@cache
def _attends(kind: type) -> bool | None:
    """Whether the source of a class calls attention that is emitted; None for a class that may do so elsewhere."""
    for owner in kind.__mro__:
        package = owner.__module__.partition(".")[0]
        if package in ("torch", "builtins"):
            continue
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):
            return None
        if any(entry in source for entry in _ENTRIES):
            return True
        if package != "transformers":
            return None
    return False


def _others(fit: Sequence[int]) -> str:
    if not fit:
        return "use another model"
    return f"record other layers with RecordSpec(layers=...), of {_short(fit)}"


def _short(layers: Sequence[int]) -> str:
    return str(list(layers)) if len(layers) <= 12 else f"[{', '.join(map(str, layers[:12]))}, ...]"
