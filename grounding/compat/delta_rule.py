"""Layers of linear attention that follow the gated delta rule."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from grounding.compat.kernels import Kernel

DELTA_RULES = (
    "torch_chunk_gated_delta_rule",
    "torch_recurrent_gated_delta_rule",
    "chunk_gated_delta_rule",
    "recurrent_gated_delta_rule",
)
"""Names of the gated delta rule in transformers: of functions of a modeling file, or of attributes of its modules."""


def delta_module(layer: nn.Module) -> nn.Module | None:
    """Return the module of a layer that attends by the gated delta rule; None if there is none."""
    return next((module for module in layer.modules() if _calls_delta_rule(type(module))), None)  # type: ignore[arg-type]


@cache
def _calls_delta_rule(kind: type) -> bool:
    if not kind.__module__.startswith("transformers.") or not kind.__name__.endswith("GatedDeltaNet"):
        return False
    return "gated_delta_rule" in inspect.getsource(inspect.unwrap(kind.forward))  # type: ignore[attr-defined]


def delta_sizes(module: nn.Module) -> tuple[int, int, int]:
    """Return value heads, key heads and key width of a module that attends by the gated delta rule."""
    sizes: Any = module
    return int(sizes.num_v_heads), int(sizes.num_k_heads), int(sizes.head_k_dim)


def delta_rule_owner(module: nn.Module) -> Any:
    """Return what holds the gated delta rule that a module calls: its modeling file, or itself in older releases."""
    if any(name in vars(module) for name in DELTA_RULES):
        return module
    return sys.modules[type(module).__module__]


@contextmanager
def wrapped_delta_rules(owner: Any, wrap: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """Wrap the functions of the gated delta rule inside the block.

    Args:
        owner: what holds them, as `delta_rule_owner` finds it.
        wrap: a function from the rule to the function to call in its place.
    """
    before = {name: vars(owner)[name] for name in DELTA_RULES if callable(vars(owner).get(name))}
    for name, rule in before.items():
        setattr(owner, name, wrap(rule))
    try:
        yield
    finally:
        for name, rule in before.items():
            setattr(owner, name, rule)
