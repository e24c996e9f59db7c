"""Find the stack of layers to follow in a transformers model, and read a call's length and cache."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grounding.errors import RecordingError

LAYER_NAMES = ("layers", "h", "blocks")
"""Names of the list of layers in transformers' classes, newest convention first."""

TOWER_NAMES = ("vision_tower", "visual", "vision_model")
"""Names of the vision tower in transformers' classes."""

ATTENTION_NAMES = ("self_attn", "attn", "attention")
"""Names of a layer's attention module."""

_NESTED = 2  # BLIP-2's decoder is a whole language model, which has a decoder again

OUTPUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo")
"""Names of an attention module's output projection, which mixes the heads' outputs."""


@dataclass(frozen=True)
class LayerStack:
    """Hold a module and its list of layers; one run of the module is one pass.

    Attributes:
        module: the decoder, or the vision tower's encoder.
        layers: its layers.
    """

    module: nn.Module
    layers: nn.ModuleList


def decoder_stack(model: nn.Module, decoder: nn.Module | None = None) -> LayerStack:
    """Find the language model's layers.

    Args:
        model: a transformers model.
        decoder: the module with the layers; found by `model.get_decoder()` where None.

    Raises:
        RecordingError: no module has a list of layers.
    """
    if decoder is not None:
        layers = layers_of(decoder)
        if layers is None:
            raise RecordingError(
                f"{type(decoder).__name__} has no list of layers; pass the module that has one as decoder="
            )
        return LayerStack(decoder, layers)
    found: Any = model
    for _ in range(_NESTED):
        if callable(getattr(found, "get_decoder", None)):
            found = found.get_decoder()
    for candidate in (found, getattr(found, "model", None), getattr(found, "decoder", None)):
        if candidate is not None and hasattr(candidate, "config"):
            layers = layers_of(candidate)
            if layers is not None:
                return LayerStack(candidate, layers)
    named = [f"model.{name}" if name else "model" for name, part in model.named_modules() if _may_be_decoder(part)]
    remedy = (
        f"pass the one of the language model as decoder=, of {', '.join(named[:8])}" if named else "use another model"
    )
    raise RecordingError(
        f"{type(model).__name__}.get_decoder() gives no language model with a list of layers; expected a transformers "
        f"decoder or a model that holds one: {remedy}"
    )


def _may_be_decoder(module: nn.Module) -> bool:
    return hasattr(module, "config") and layers_of(module) is not None


def vision_tower(model: nn.Module) -> nn.Module:
    """Find the vision tower of a vision-language model.

    Raises:
        RecordingError: no attribute of `TOWER_NAMES` is a module.
    """
    for holder in (getattr(model, "model", None), model):
        for name in TOWER_NAMES:
            found = getattr(holder, name, None)
            if isinstance(found, nn.Module):
                return found
    raise RecordingError(f"{type(model).__name__} has no vision tower under a known name ({', '.join(TOWER_NAMES)})")


def tower_stack(tower: nn.Module) -> LayerStack | None:
    """Find the layers of a vision tower; None for a tower without layers of attention, such as a convolutional one."""
    for module in tower.modules():
        layers = layers_of(module)
        if layers is not None and any("att" in name for layer in layers for name, _ in layer.named_modules()):
            return LayerStack(module, layers)
    return None


def layers_of(module: nn.Module) -> nn.ModuleList | None:
    """Return a module's own list of layers, under a name of `LAYER_NAMES`; None if it has none."""
    for name in LAYER_NAMES:
        layers = getattr(module, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) > 0:
            return layers
    return None


def output_projection(layer: nn.Module) -> nn.Module:
    """Find the output projection of a layer's attention.

    Raises:
        RecordingError: no attribute of `OUTPUT_NAMES` is a module.
    """
    attention = next((found for name in ATTENTION_NAMES if (found := getattr(layer, name, None)) is not None), None)
    for name in OUTPUT_NAMES:
        found = getattr(attention, name, None)
        if isinstance(found, nn.Module):
            return found
    raise RecordingError(
        f"{type(layer).__name__} has no attention output matrix under a known name ({', '.join(OUTPUT_NAMES)}), so its "
        "heads cannot be gated"
    )


def argument(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    """Return a call's argument by name, whether passed by position or by keyword; None if it was not passed."""
    if name in kwargs or not args:
        return kwargs.get(name)
    return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments.get(name)


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all arguments of a call by name."""
    return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments if args else kwargs


def length_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Return the number of positions that a call reads, from token ids or embeddings; None if it has neither."""
    for name in ("inputs_embeds", "input_ids"):
        tensor = argument(module, args, kwargs, name)
        if isinstance(tensor, Tensor) and tensor.ndim >= 2:
            return int(tensor.shape[1])
    return None


def cache_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return a call's key/value cache, under its name before or since transformers 5.24; None without one."""
    for name in ("cache", "past_key_values"):
        found = argument(module, args, kwargs, name)
        if found is not None:
            return found
    return None


def cached_length(cache: Any) -> int:
    """Return the number of positions in a key/value cache, 0 without one.

    Raises:
        RecordingError: the cache is not a transformers `Cache`.
    """
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        raise RecordingError(
            f"the cache is a {type(cache).__name__}; expected a transformers Cache. Pass past_key_values=DynamicCache()"
        )
    return int(cache.get_seq_length())


def real_positions(mask: Any, past: int, queries: int) -> Tensor | None:
    """Read off a stack's attention mask which new positions are tokens and not padding.

    Args:
        mask: the mask that the stack was given: [B, >= past + Q] padding, [B, 1, Q, K] of bool or additive form, a
            mapping from kinds of layers to such masks, or None.
        past: positions in the cache before the pass.
        queries: Q, positions that the pass reads.

    Returns:
        [B or 1, Q] bool; None where the mask has another form.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None:
        return torch.ones(1, queries, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] < queries:
        return None
    keys = mask.shape[-1]
    start = past if keys >= past + queries else keys - queries  # a sliding window has dropped keys
    if mask.ndim == 4 and mask.shape[2] < queries:
        return None
    if mask.ndim == 2:
        return mask[:, start : start + queries].bool()
    diagonal = mask[:, 0, -queries:, start : start + queries].diagonal(dim1=-2, dim2=-1)
    return diagonal if diagonal.dtype == torch.bool else diagonal > torch.finfo(diagonal.dtype).min / 2
