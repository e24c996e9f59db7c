"""Emit the attention calls of code under `torch.compile`, through operators that the compiler does not look into.

While a model is compiled inside a block of `intercept`, each attention call of a followed layer becomes an operator of
this module. When the compiled code runs, the operator tells the subscribers of its own thread, as uncompiled code does;
without subscribers it does nothing. Code that was compiled outside a block has no such operators, so blocks run code of
their own: they hold a mode of torch functions, which is one of the things that compiled code is chosen by. The compiler
keeps both, and neither is compiled twice.

Notes:
    Observed calls run the kernel that the compiler chose, and one copy of its output. Where a call may be edited the
    operator runs transformers' kernel itself, so that edits are made in uncompiled code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from grounding.attention.backends.kernel_events import FOREIGN, emit, observed
from grounding.attention.events import Route, Scope, active_routes
from grounding.attention.introspect import LayerStack
from grounding.attention.patches import SharedPatch
from grounding.compat import (
    Kernel,
    has_compiled_forward,
    is_compiled,
    kernel_name,
    opaque_operator,
    sdpa_kernel,
    torch_version,
    watched_compile,
)
from grounding.errors import RecordingError

_KEY, _EDITED = "_grounding_key", "_grounding_edited"  # attributes of followed modules, which compiled code depends on
_KEYS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_MODULES: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
_NEXT = count()
_USES: Counter[tuple[int, str]] = Counter()
_LOCK = Lock()
_LEAST_TORCH = (2, 6)  # the first whose compiled code depends on modes of torch functions


class TracedKernel:
    """Stand for a kernel while code that calls it is compiled.

    Args:
        name: the kernel's name in transformers' registry.
        kernel: the kernel.
    """

    def __init__(self, name: str, kernel: Kernel) -> None:
        self.name = name
        self.kernel = kernel

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Run the kernel, or the operator that runs it, and leave an operator that tells the subscribers."""
        number = getattr(module, _KEY, None)
        if number is None:
            return self.kernel(module, query, key, value, attention_mask, *args, **options)
        causal, window, scale, cap = (options.get(n) for n in ("is_causal", "sliding_window", "scaling", "softcap"))
        settings = (
            self.name,
            number,
            float(options.get("dropout") or 0.0),
            None if scale is None else float(scale),
            None if causal is None else bool(causal),
            None if window is None else int(window),
            None if cap is None else float(cap),
            next((name for name in FOREIGN if options.get(name) is not None), ""),
        )
        bias = options.get("position_bias")
        if getattr(module, _EDITED, False):
            return torch.ops.grounding.attend(query, key, value, attention_mask, bias, *settings), None
        output, weights = self.kernel(module, query, key, value, attention_mask, *args, **options)
        return torch.ops.grounding.observe(output, query, key, value, attention_mask, bias, *settings), weights


@opaque_operator("grounding::observe")
def _observe(
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    name: str,
    number: int,
    dropout: float,
    scale: float | None,
    causal: bool | None,
    window: int | None,
    cap: float | None,
    foreign: str,
) -> Tensor:
    """Tell the subscribers of a call, and return a copy of its output, without which the operator would be left out."""
    module = _MODULES.get(number)
    if module is not None and active_routes():
        options = _named(dropout, scale, causal, window, cap, bias, foreign)
        observed(name, module, query, key, value, mask, options, output)
    return output.clone()


@_observe.register_fake
def _(output: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(output)


@opaque_operator("grounding::attend")
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    name: str,
    number: int,
    dropout: float,
    scale: float | None,
    causal: bool | None,
    window: int | None,
    cap: float | None,
    foreign: str,
) -> Tensor:
    """Run torch's kernel with the edits of the subscribers, as in uncompiled code; [B, Q, H, Dv]."""
    module = _MODULES[number]
    options = {k: v for k, v in _named(dropout, scale, causal, window, cap, bias, foreign).items() if v is not None}
    described_as = "eager" if name == "eager" else "sdpa"  # whose kernel runs in place of all others
    output: Tensor = emit(described_as, sdpa_kernel(), module, query, key, value, mask, **options)[0]
    return output.contiguous()


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


def _named(
    dropout: float,
    scale: float | None,
    causal: bool | None,
    window: int | None,
    cap: float | None,
    bias: Tensor | None,
    foreign: str,
) -> dict[str, Any]:
    """The options of a kernel as the model passed them."""
    return {
        "dropout": dropout,
        "scaling": scale,
        "is_causal": causal,
        "sliding_window": window,
        "softcap": cap,
        "position_bias": bias,
        **({foreign: True} if foreign else {}),
    }


@opaque_operator("grounding::residual")
def _residual(hidden: Tensor, number: int) -> Tensor:
    """Tell the subscribers of a layer's input, and return a copy of it."""
    layer = _MODULES.get(number)
    if layer is not None:
        for route in active_routes():
            index = route.residual_layer(layer)
            if index is not None:
                route.subscriber.residual(index, hidden)
    return hidden.clone()


@_residual.register_fake
def _(hidden: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(hidden)


def module_number(module: nn.Module) -> int:
    """The number by which operators find a module."""
    with _LOCK:
        if module not in _KEYS:
            _KEYS[module] = next(_NEXT)
            _MODULES[_KEYS[module]] = module
        return _KEYS[module]


class ResidualHook:
    """A forward pre-hook with keyword arguments that emits a layer's input, also in compiled code.

    Args:
        hook: what runs in uncompiled code.
        number: of the layer.
    """

    def __init__(self, hook: Callable[..., None], number: int) -> None:
        self._hook = hook
        self._number = number

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the hook, or leave an operator that tells the subscribers of the layer's input."""
        if not torch.compiler.is_compiling():
            return self._hook(module, args, kwargs)
        if args:
            return (torch.ops.grounding.residual(args[0], self._number), *args[1:]), kwargs
        hidden = torch.ops.grounding.residual(kwargs["hidden_states"], self._number)
        return args, {**kwargs, "hidden_states": hidden}

    def __reduce__(self) -> Any:
        return self._hook.__reduce__()


class _OwnCode(TorchFunctionMode):
    """Do nothing but be there: compiled code is chosen by the modes that are active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@cache
def _mode(residuals: tuple[int, ...]) -> type[TorchFunctionMode]:
    """The mode of blocks that follow some layers' inputs: the compiler does not notice hooks, but it does modes."""
    return type("OwnCode", (_OwnCode,), {"residuals": residuals})


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """The modules of the model that are compiled: as a wrapper, in place, or their `forward` alone."""
    return [module for module in model.modules() if is_compiled(module) or has_compiled_forward(module)]


@contextmanager
def compiled_before(model: nn.Module, route: Route, parts: Sequence[nn.Module]) -> Iterator[None]:
    """Refuse to compile inside the block what a route follows: its hooks are not for compiled code.

    `module.compile()` is refused where it is called, and any other way at the end of the block.

    Args:
        model: the whole model.
        route: an open route.
        parts: what is compiled already; see `compiled_parts`.

    Raises:
        RecordingError: a module of the route was compiled inside the block.
    """
    known = {id(part) for part in parts}
    with _WATCH.installed():
        yield
    late = next((part for part in compiled_parts(model) if id(part) not in known and route.reaches(part)), None)
    if late is not None:
        kind = type(getattr(late, "_orig_mod", late)).__name__
        raise RecordingError(
            f"{kind} was compiled inside the block that follows its layers, whose hooks compiled code leaves out: "
            "compile it before the block opens"
        )


def _refuse_late(module: nn.Module) -> None:
    if any(route.reaches(module) for route in active_routes()):
        raise RecordingError(
            f"{type(module).__name__}.compile() was called inside a block that records or steers it: compile it before "
            "the block opens"
        )


_WATCH = SharedPatch(lambda: watched_compile(_refuse_late))


def refuse_compiled(stack: LayerStack, scope: Scope, outside: Sequence[int]) -> None:
    """Refuse events that compiled code cannot emit.

    Args:
        stack: the layers.
        scope: the events.
        outside: layers of the scope that do not take their kernel from transformers' registry.

    Raises:
        RecordingError: naming them.
    """
    if torch_version() < _LEAST_TORCH:
        least = ".".join(map(str, _LEAST_TORCH))
        raise RecordingError(
            f"the model is compiled, and compiled code is followed from torch {least} on, not in {torch.__version__}: "
            "run the model uncompiled, or install a newer torch"
        )
    name = kernel_name(stack.module.config) if hasattr(stack.module, "config") else ""
    advice = "run the model uncompiled (for a wrapper, its `_orig_mod`; in generate, disable_compile=True)"
    if outside:
        layer = type(stack.layers[outside[0]]).__name__
        raise RecordingError(
            f"the model is compiled, and {layer} does not take its attention kernel from transformers' registry, so "
            f"its calls cannot be followed in compiled code: {advice}"
        )
    if scope.gates:
        raise RecordingError(f"the outputs of heads cannot be changed in compiled code: {advice}")
    if scope.edits and name != "sdpa":
        raise RecordingError(
            f"the model is compiled with the attention kernel {name!r}, and edits in compiled code need 'sdpa': load "
            f"it with attn_implementation='sdpa', or {advice}"
        )


@contextmanager
def own_code(stack: LayerStack, scope: Scope, outside: Sequence[int]) -> Iterator[None]:
    """Have compiled code emit the events of a scope inside the block.

    Args:
        stack: the layers.
        scope: the events.
        outside: layers of the scope that do not take their kernel from transformers' registry.

    Raises:
        RecordingError: see `refuse_compiled`.
    """
    refuse_compiled(stack, scope, outside)
    wanted = (_KEY, _EDITED) if scope.edits else (_KEY,)
    numbers = [(module, module_number(module)) for i in scope.calls for module in stack.layers[i].modules()]
    try:
        with _LOCK:
            for module, number in numbers:
                for name in wanted:
                    _USES[number, name] += 1
                    module.__dict__[name] = number if name == _KEY else True
        with _mode(tuple(sorted(scope.residuals)))():
            yield
    finally:
        with _LOCK:
            for module, number in numbers:
                for name in wanted:
                    _USES[number, name] -= 1
                    if not _USES[number, name]:
                        del _USES[number, name]
                        module.__dict__.pop(name, None)
