"""Follow the runs of a stack of layers: where each begins, what it reads, and where it ends (`PassHooks`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from grounding.attention.events import Pass, Route
from grounding.attention.generation import Prompt
from grounding.attention.introspect import argument, arguments, cache_of, cached_length, length_of
from grounding.compat import is_compiled, is_wrapper, without_always_called, wrapped_compiled_calls
from grounding.errors import RecordingError


class PassingHook:
    """A forward hook that does nothing in compiled code, nor in a deep or pickled copy of its module.

    Copies are not followed; compiled code is followed from outside it, and by operators inside it.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        """Run the hook."""
        return None if torch.compiler.is_compiling() else self._run(*args)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    return None


class PassHooks:
    """Follow the runs of a stack by forward hooks, and compare their positions with the prompt that was given.

    Args:
        undo: receives callbacks that remove the hooks.
        route: receives the events.
        model: the whole model.
        module: the stack's module.
        own_code: makes a context inside which code that `generate` compiles emits events.
        emit_waiting: emits the calls that have waited for the end of a run.
    """

    def __init__(
        self,
        undo: ExitStack,
        route: Route,
        model: nn.Module,
        module: nn.Module,
        own_code: Callable[[], AbstractContextManager[None]],
        emit_waiting: Callable[[], None],
    ) -> None:
        self._route = route
        self._model, self._module = model, module
        self._generates: nn.Module | None = None
        self._given: tuple[int, int] | None = None  # positions and cached positions that the next pass must read
        self._is_compared = False  # whether a pass has read what the model was given
        self.queries: int | None = None
        """Q of the current pass; None before the first."""
        self._own_code = own_code
        self._emit_waiting = emit_waiting
        self._wrapper: nn.Module | None = None
        if model is not module:
            undo.callback(model.register_forward_pre_hook(PassingHook(self._before_model), with_kwargs=True).remove)
        entry = _compiled_holder(model, module)
        if entry is not None and not is_wrapper(entry):
            # Hooks would run inside the compiled code.
            undo.enter_context(wrapped_compiled_calls(entry, partial(self._run_compiled, entry)))
            return
        followed, self._wrapper = module if entry is None else entry, entry
        undo.callback(followed.register_forward_pre_hook(PassingHook(self._before), with_kwargs=True).remove)
        after = followed.register_forward_hook(PassingHook(self._after), with_kwargs=True, always_call=True)
        undo.callback(after.remove)
        if entry is None:  # `generate` may compile the whole model
            inside = partial(without_always_called, module, after)
            undo.enter_context(wrapped_compiled_calls(model, partial(self._run_generated, model, inside)))

    def _run_compiled(self, module: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
        """Follow the runs of a compiled module from outside its code."""

        def followed(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return run(*args, **kwargs)
            self._before_model(module, args, kwargs)
            self._before(module, args, kwargs)
            output = None
            try:
                output = run(*args, **kwargs)
            finally:
                self._after(module, args, kwargs, output)
            return output

        return followed

    def _run_generated(
        self, module: nn.Module, inside: Callable[[], AbstractContextManager[None]], run: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The same for code that `generate` compiles, which has its own code inside the block."""
        followed = self._run_compiled(module, run)

        def in_own_code(*args: Any, **kwargs: Any) -> Any:
            with self._own_code(), inside():
                return followed(*args, **kwargs)

        return in_own_code

    def begin_generation(self, model: nn.Module, prompt: Prompt | None) -> None:
        """Tell the subscriber of a generation by the followed model or a part of it that holds the stack."""
        own = self._generates is None and self._route.is_active
        if not own or not (_holds(self._model, model) and _holds(model, self._module)):
            return
        self._generates = model
        if prompt is not None:
            self._given = None if prompt.assisted else (prompt.length - prompt.cached, prompt.cached)
            self._route.subscriber.begin_generation(prompt)

    def end_generation(self, model: nn.Module) -> None:
        """Tell the subscriber that the generation has ended."""
        if model is self._generates:
            self._generates = self._given = self._route.waiting = None  # an interrupt skips the hooks that end a pass
            self._route.subscriber.end_generation()

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._route.is_active:
            return
        length = length_of(module, args, kwargs)
        if length is not None:
            if self._generates is None:
                self._given = None
                # Tokens are added to a prompt and not to the single positions that follow it.
                if not (self._is_compared and length == 1) and not _encodes(module):
                    self._given = (length, cached_length(cache_of(module, args, kwargs)))
            self._route.subscriber.before_model(length)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._route.is_active:
            return
        if module is self._wrapper:
            module = module._orig_mod  # type: ignore[assignment]  # a wrapper's own signature names no argument
        self.queries = length_of(module, args, kwargs)
        cache = cache_of(module, args, kwargs)
        past = cached_length(cache)
        self._refuse_added(past, self.queries)
        mask = argument(module, args, kwargs, "attention_mask")
        subscriber = self._route.subscriber
        subscriber.begin_pass(Pass(past, self.queries, cache, mask, arguments(module, args, kwargs)))
        self._route.waiting = [] if not self._route.edits and subscriber.may_wait() else None

    def _refuse_added(self, past: int, queries: int | None) -> None:
        """Refuse a first pass over more positions than the caller gave, because all positions would be shifted."""
        given, self._given = self._given, None
        if given is None or queries is None:
            return
        count, cached = given
        added = max(past - cached, queries - count)  # a prompt in chunks has fewer queries
        if added > 0:
            raise RecordingError(
                f"the model was given a prompt of {count + cached} positions, but its decoder reads {added} more, as "
                "with virtual tokens (PEFT's prompt and prefix tuning), so every position is shifted: pass the decoder "
                "itself in place of the model (model.get_decoder()), and count the added positions"
            )
        self._is_compared = True

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._route.is_active:
            return
        is_complete = False
        try:
            if output is not None:
                self._emit_waiting()
                is_complete = True
        finally:
            self._route.waiting = None
            self._route.subscriber.end_pass(failed=not is_complete)


def _compiled_holder(model: nn.Module, module: nn.Module) -> nn.Module | None:
    """The outermost module that is compiled and is or holds the stack's module; None where there is none."""
    return next((one for one in model.modules() if is_compiled(one) and _holds(one, module)), None)


def _encodes(model: nn.Module) -> bool:
    """Whether a model's inputs are those of an encoder, and not of the decoder that is followed."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _holds(whole: nn.Module, part: nn.Module) -> bool:
    return any(module is part for module in whole.modules())
