"""Define the stream of attention events and its subscribers.

For every run of a stack of layers the events are, in order: `begin_pass`; per layer `residual`, `edit`, `observe` and
`gate`, or of linear attention `residual` and `observe_linear`; `end_pass`. `begin_generation` precedes the passes of a
call of `generate`, and `end_generation` follows them.

Where all subscribers to a module let its calls wait (`may_wait`), those without a mask are offered to
`observe_repeated`, or else observed, together before `end_pass` and after all `gate` events.

Recording is a subscriber that keeps observed rows; steering is a subscriber that returns edits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from grounding.attention.call import AttentionCall
from grounding.attention.generation import Prompt
from grounding.attention.linear_rows import DeltaCall


@dataclass(frozen=True)
class Pass:
    """Describe one run of a stack of layers.

    Attributes:
        past: positions in the key/value cache before the run.
        queries: Q, new positions that the run reads; None where the call does not show it (a vision tower).
        cache: the key/value cache, or None.
        mask: the attention mask that the stack was given, in whatever form; None without one.
        inputs: keyword arguments of the call.
    """

    past: int
    queries: int | None
    cache: Any = None
    mask: Any = None
    inputs: Mapping[str, Any] | None = None


class Subscriber:
    """Base of all subscribers to attention events; every event has a default that does nothing.

    Shape letters: B sequences, Q queries, H heads, Dv value width, E residual width.
    """

    def before_model(self, length: int) -> None:
        """Handle the start of the whole model on `length` positions, before its vision tower runs."""

    def begin_generation(self, prompt: Prompt) -> None:
        """Handle the start of `generate` on a prompt whose length is known."""

    def end_generation(self) -> None:
        """Handle the end of a `generate` that `begin_generation` announced, also after an exception."""

    def begin_pass(self, running: Pass) -> None:
        """Handle the start of a run of the stack."""

    def end_pass(self, *, failed: bool) -> None:
        """Handle the end of a run; `failed` is true if it ended with an exception."""

    def wants(self, layer: int) -> bool:
        """Return whether calls of this layer are to be emitted in the current pass; asked before each is described."""
        return True

    def may_wait(self) -> bool:
        """Return whether calls without a mask may be emitted at the end of the pass that has begun.

        A decode step makes many small calls, and the model's arithmetic between them empties the processor's caches:
        what is done at the end, for all layers one after the other, costs a fraction of what it costs in between.
        A pass that fails emits none of them, and a subscriber that edits is not asked.
        """
        return False

    def residual(self, layer: int, hidden: Tensor) -> None:
        """Receive a layer's input [B, Q, E], before its attention."""

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """Return the call with one more edit; return the same object to keep the kernel's output bit for bit."""
        return call

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """Receive a call, edits included, and its output [B, Q, H, Dv]; neither may be modified."""

    def observe_repeated(self, layer: int, query: Tensor, key: Tensor, options: tuple[object, ...]) -> bool:
        """Receive a call that has waited before it is described; return False to receive it by `observe`.

        Args:
            layer: the layer.
            query: [B, H, Q, D].
            key: [B, H/G, K, D].
            options: see `AttentionCall.options`.
        """
        return False

    def observe_linear(self, layer: int, call: DeltaCall, output: Tensor) -> None:
        """Receive a call of the gated delta rule and its output [B, Q, H, Dv]; neither may be modified."""

    def gate(self, layer: int, outputs: Tensor) -> Tensor | None:
        """Return new heads' outputs [B, Q, H * Dv] before the output projection, or None to keep them."""
        return None


@dataclass(frozen=True)
class Scope:
    """Choose the events of a stack that are emitted.

    Attributes:
        calls: layers whose attention calls are emitted.
        residuals: layers whose inputs are emitted.
        gates: layers whose heads' outputs are emitted.
        linear: layers of linear attention whose calls are emitted.
        edits: whether the subscriber may edit calls.
        log_sum_exp: whether calls are to carry the kernel's log-sum-exp where it gives one.
    """

    calls: Collection[int] = ()
    residuals: Collection[int] = ()
    gates: Collection[int] = ()
    linear: Collection[int] = ()
    edits: bool = False
    log_sum_exp: bool = False


WaitingCall = tuple[str, nn.Module, Tensor, Tensor, Tensor, dict[str, Any], Tensor]
"""The kernel's name, the module, query, key, value, the kernel's options and its output."""


class Route:
    """Connect a subscriber to the modules of its layers.

    Args:
        subscriber: receives the events.
        layers: layers of the stack.
        scope: events to emit.
    """

    def __init__(self, subscriber: Subscriber, layers: nn.ModuleList, scope: Scope) -> None:
        self.subscriber = subscriber
        self.edits = scope.edits
        self.waiting: list[WaitingCall] | None = None
        """Calls of the running pass that are to be emitted at its end; None where each is emitted as it comes."""
        self.most_waiting = len(layers)
        """Number of calls that a pass has; more are of other modules, as behind a pass that an interrupt ended."""
        self._residual_of = {id(layers[i]): i for i in scope.residuals}
        self.layer_of = {id(module): i for i in (*scope.calls, *scope.linear) for module in layers[i].modules()}
        every = {*scope.calls, *scope.residuals, *scope.gates, *scope.linear}
        self._followed = {id(module) for i in every for module in layers[i].modules()}

    def layer(self, module: nn.Module) -> int | None:
        """Return the layer of a module; None if it is outside the scope or the subscriber does not want its calls."""
        layer = self.layer_of.get(id(module))
        return layer if layer is not None and self.subscriber.wants(layer) else None

    def residual_layer(self, layer: nn.Module) -> int | None:
        """Return the index of a layer whose inputs are emitted; None if they are not."""
        return self._residual_of.get(id(layer))

    def reaches(self, module: nn.Module) -> bool:
        """Return whether a module is, holds or is held by a layer of the scope."""
        return any(id(part) in self._followed for part in module.modules())

    @property
    def is_active(self) -> bool:
        """Whether the route was opened in the current thread or async task."""
        return self in _ROUTES.get()  # by identity


_ROUTES: ContextVar[tuple[Route, ...]] = ContextVar("grounding_attention_routes", default=())


active_routes = _ROUTES.get
"""Return the routes of the current thread or async task, outermost first; bound, since every call of a kernel asks."""


@contextmanager
def opened(route: Route) -> Iterator[None]:
    """Emit the current thread's events to `route` inside the block."""
    token = _ROUTES.set((*_ROUTES.get(), route))
    try:
        yield
    finally:
        _ROUTES.reset(token)


@contextmanager
def without_edits() -> Iterator[None]:
    """Disable all edits inside the block, for example to read another prompt while steering."""
    token = _ROUTES.set(tuple(route for route in _ROUTES.get() if not route.edits))
    try:
        yield
    finally:
        _ROUTES.reset(token)


def observes(subscriber: Subscriber) -> bool:
    """Whether a subscriber receives events in the current thread or async task."""
    return any(route.subscriber is subscriber for route in _ROUTES.get())


@contextmanager
def without_observers() -> Iterator[None]:
    """Disable all subscribers that make no edits inside the block, so that the model runs unrecorded."""
    token = _ROUTES.set(tuple(route for route in _ROUTES.get() if route.edits))
    try:
        yield
    finally:
        _ROUTES.reset(token)
