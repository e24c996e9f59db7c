"""`torch.compile`: what is compiled, and what compiled code calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from grounding.compat.kernels import Kernel


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by `torch.compile`, in place or as a wrapper."""
    return module._compiled_call_impl is not None or is_wrapper(module)


def torch_version() -> tuple[int, int]:
    """Major and minor version of torch."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def opaque_operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a decorator that registers a function as an operator which compilers neither look into nor replay.

    Args:
        name: `namespace::name`.
    """
    options: dict[str, Any] = {"mutates_args": ()}
    # A replayed CUDA graph would leave Python out.
    if "tags" in inspect.signature(torch.library.custom_op).parameters and hasattr(torch.Tag, "cudagraph_unsafe"):
        options["tags"] = (torch.Tag.cudagraph_unsafe,)
    return torch.library.custom_op(name, **options)


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module is the wrapper that `torch.compile(module)` returns."""
    return type(module).__name__ == "OptimizedModule"


def has_compiled_forward(module: nn.Module) -> bool:
    """Whether a module's `forward` alone is compiled, as by `module.forward = torch.compile(module.forward)`."""
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")


@contextmanager
def watched_compile(watch: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call a function before `module.compile()` compiles a module in place inside the block, in the whole process.

    Args:
        watch: receives the module; what it raises, `compile` raises.
    """
    compile_in_place = nn.Module.compile

    @wraps(compile_in_place)
    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        watch(self)
        compile_in_place(self, *args, **kwargs)

    replaced: Any = nn.Module
    replaced.compile = watched
    try:
        yield
    finally:
        replaced.compile = compile_in_place


@contextmanager
def without_always_called(module: nn.Module, handle: RemovableHandle) -> Iterator[None]:
    """Make a forward hook inside the block one that is not called after an exception.

    Compiled code depends on the numbers of hooks that always are, so each new hook would have the module compiled anew.
    """
    kept = module._forward_hooks_always_called.pop(handle.id, None)
    try:
        yield
    finally:
        if kept is not None:
            module._forward_hooks_always_called[handle.id] = kept


@contextmanager
def wrapped_compiled_calls(module: nn.Module, wrap: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """Wrap what runs in a module's place inside the block: its compiled call, and the one that `generate` compiles.

    The compiled call of a module that `compile()` compiled in place runs the module's hooks inside the compiled code;
    `get_compiled_call` gives `generate` the compiled module for decode steps with a static cache.

    Args:
        module: any module.
        wrap: a function from the compiled call to the call to make in its place.
    """
    own: Any = vars(module)
    before = {name: own[name] for name in ("_compiled_call_impl", "get_compiled_call") if name in own}
    get_compiled_call = getattr(module, "get_compiled_call", None)
    if module._compiled_call_impl is not None:
        own["_compiled_call_impl"] = wrap(module._compiled_call_impl)
    if get_compiled_call is not None:
        own["get_compiled_call"] = lambda *args: wrap(get_compiled_call(*args))
    try:
        yield
    finally:
        for name in ("_compiled_call_impl", "get_compiled_call"):
            own.pop(name, None)
        own.update(before)
