"""Check inside the user's own run that recording leaves the model's outputs as they are, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grounding.attention.events import without_observers
from grounding.attention.introspect import LayerStack, cache_of
from grounding.errors import RecordingError


@contextmanager
def verifying(model: nn.Module, stack: LayerStack, is_own: Callable[[], bool]) -> Iterator[None]:
    """Run every pass inside the block once more without recording, and compare all outputs.

    The whole model is run again where it was called as a whole, else the decoder. The second pass starts from a copy of
    the key/value cache and takes as long as the first. Edits of steering stay.

    Args:
        model: the model.
        stack: its decoder.
        is_own: tells whether the current thread is the one that records.

    Raises:
        RecordingError: an output differs (raised when the pass ends); the message names it and the difference.
    """
    passes = _Passes(is_own)
    with ExitStack() as undo:
        for module in {id(m): m for m in (model, stack.module)}.values():
            undo.callback(module.register_forward_pre_hook(passes.before, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(passes.after, with_kwargs=True, always_call=True).remove)
        yield


class _Passes:
    """Remember the outermost module that runs, with the cache as it was before."""

    def __init__(self, is_own: Callable[[], bool]) -> None:
        self._is_own = is_own
        self._outermost: nn.Module | None = None
        self._cache: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Passes:
        return _Passes(lambda: False)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_own() and self._outermost is None:
            self._outermost = module
            self._cache = copy.deepcopy(cache_of(module, args, kwargs))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if module is not self._outermost or not self._is_own():
            return
        try:
            if output is not None:  # None where the pass failed
                given = cache_of(module, args, kwargs)
                args = tuple(self._cache if given is not None and one is given else one for one in args)
                again = {k: self._cache if given is not None and v is given else v for k, v in kwargs.items()}
                with without_observers():
                    plain = module(*args, **again)
                _refuse_difference(type(module).__name__, plain, output)
        finally:
            self._outermost = self._cache = None


def _refuse_difference(model: str, plain: Any, recorded: Any) -> None:
    expected, found = dict(_tensors("output", plain)), dict(_tensors("output", recorded))
    for name, tensor in expected.items():
        other = found.get(name)
        if other is None or other.shape != tensor.shape:
            difference = "is missing" if other is None else f"has the shape {tuple(other.shape)}"
        elif torch.equal(tensor.nan_to_num(), other.nan_to_num()) and torch.equal(tensor.isnan(), other.isnan()):
            continue
        else:
            differing = tensor.ne(other)
            most = (tensor.float() - other.float()).abs().nan_to_num().max()
            difference = f"differs in {int(differing.sum())} of {tensor.numel()} values, by up to {float(most):.2g}"
        raise RecordingError(
            f"{name} of {model} {difference} while it is recorded, where a plain pass is expected to give equal bits: "
            "the model depends on being recorded, or its kernels are not deterministic; do not use these rows"
        )


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Walk through a model's output; caches, which the copy replaces, are left out."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(str(key), part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(field.name, getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, part in enumerate(value):
            yield from _tensors(f"{name}[{index}]", part)
