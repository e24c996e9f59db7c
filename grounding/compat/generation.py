"""Calls of `generate`, and its key/value caches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from typing import Any

from torch import Tensor, nn


@contextmanager
def wrapped_generate(
    around: Callable[[Any, Tensor | None, Mapping[str, Any]], AbstractContextManager[None]],
) -> Iterator[None]:
    """Run every `generate` of a transformers model inside the block within a context manager.

    The class's method is wrapped, because models call `generate` of their parts, and adapters that of their base model.

    Args:
        around: makes the context manager from the model, its first positional argument and its keyword arguments.
    """
    from transformers import GenerationMixin

    generate = GenerationMixin.generate

    @wraps(generate)
    def wrapped(self: Any, inputs: Tensor | None = None, *args: Any, **options: Any) -> Any:
        with around(self, inputs, options):
            return generate(self, inputs, *args, **options)

    GenerationMixin.generate = wrapped
    try:
        yield
    finally:
        GenerationMixin.generate = generate


def generation_options(model: Any, options: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return settings of a call of `generate`: its keyword arguments, else its generation config's, else the model's.

    Args:
        model: the model.
        options: the call's keyword arguments.
        names: the settings.
    """
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    return [options[name] if options.get(name) is not None else getattr(config, name, None) for name in names]


def cache_argument(module: nn.Module) -> str:
    """Return the name of a module's cache argument: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def grows_by_copy(layer: Any) -> bool:
    """Whether a layer of a key/value cache makes new tensors of all keys and values whenever it grows.

    Its former tensors, `keys` and `values`, stay as they were, and are a prefix of the new ones. Of transformers'
    layers only the plain dynamic one does; sliding, static and quantised ones drop, overwrite or round.
    """
    return _is_plain_dynamic(type(layer)) and "update" not in vars(layer)  # type: ignore[arg-type]  # classes can be hashed


@cache
def _is_plain_dynamic(kind: type) -> bool:
    from transformers.cache_utils import DynamicLayer

    return kind is DynamicLayer


def generation_positions(model: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Compute the position ids that `generate` passes for a prompt.

    Args:
        model: a transformers model with `generate`.
        inputs: the prompt, by the model's argument names.

    Returns:
        [B, N] or [4, B, N]; None where the model's forward computes its own.
    """
    find = getattr(model, "_prepare_position_ids_for_generation", None)
    if find is None:
        return None
    positions: Tensor = find(inputs["input_ids"], dict(inputs))
    return positions
