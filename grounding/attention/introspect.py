"""What is asked of a transformers model while its passes are followed: layers, configs, a call's length and cache."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from grounding.errors import RecordingError

LAYER_NAMES = ("layers", "h", "blocks")
"""What transformers' decoders call their list of layers, newest convention first."""


def find_decoder(model: nn.Module) -> nn.Module:
    """The language model inside `model`.

    Args:
        model: a transformers model.

    Returns:
        The module that holds the decoder layers.

    Raises:
        RecordingError: if there is none.
    """
    found: Any = model
    if callable(getattr(model, "get_decoder", None)):
        found = model.get_decoder()  # type: ignore[operator]
    for candidate in (found, getattr(found, "model", None), getattr(found, "decoder", None)):
        if candidate is not None and hasattr(candidate, "config") and layers_of(candidate) is not None:
            return candidate
    raise RecordingError(
        f"{type(model).__name__} has no language model with a list of layers; expected a transformers decoder or a "
        "model that holds one. Pass the module that has them as decoder="
    )


def layers_of(decoder: nn.Module) -> nn.ModuleList | None:
    """The list of layers that `decoder` holds, None if it holds none."""
    for name in LAYER_NAMES:
        layers = getattr(decoder, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) > 0:
            return layers
    return None


def configs_of(model: nn.Module, decoder: nn.Module, layers: nn.ModuleList) -> list[Any]:
    """Every config that decides on the decoder's kernel and masks: modules' own, and the one generate() reads."""
    own: Any = decoder.config
    configs = [own, *(m.config for m in layers.modules() if hasattr(m, "config"))]
    whole: Any = getattr(model, "config", None)
    if hasattr(whole, "get_text_config"):
        text = whole.get_text_config(decoder=True)
        if getattr(text, "_attn_implementation", None) == own._attn_implementation:
            configs.append(text)
    return configs


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model under torch.compile.

    Raises:
        RecordingError: some module of it is compiled.
    """
    compiled = any(
        module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
        for module in model.modules()
    )
    if compiled:
        raise RecordingError(
            "the model is compiled, so its attention calls cannot be followed; record the model as it was before "
            "torch.compile (for a wrapper, its `_orig_mod`)"
        )


def argument(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """A call's argument by its name, however it was passed; None if it was not."""
    if name in kwargs or not args:
        return kwargs.get(name)
    return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments.get(name)


def length_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Positions the call reads, from its token ids or embeddings."""
    for name in ("inputs_embeds", "input_ids"):
        tensor = argument(module, args, kwargs, name)
        if isinstance(tensor, Tensor) and tensor.ndim >= 2:
            return int(tensor.shape[1])
    return None


def cache_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The key/value cache; transformers calls the argument `cache` from 5.24 on and `past_key_values` before."""
    for name in ("cache", "past_key_values"):
        found = argument(module, args, kwargs, name)
        if found is not None:
            return found
    return None


def cached(cache: Any) -> int:
    """Positions in a key/value cache, 0 without one.

    Raises:
        RecordingError: the cache is not one of transformers'.
    """
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        raise RecordingError(
            f"the cache is a {type(cache).__name__}; expected a transformers Cache. Pass past_key_values=DynamicCache()"
        )
    return int(cache.get_seq_length())
