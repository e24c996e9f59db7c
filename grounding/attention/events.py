"""The stream of attention events: what a subscriber is shown, and which subscribers listen in the running thread.

For every run of a stack of layers the events are, in order: `begin_pass`; per layer `residual`, `edit`, `observe` and
`gate`; `end_pass`. Recording is a subscriber that keeps what it observes, steering one that returns edits. Every event
has a default that does nothing, so a subscriber says only what it is interested in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from grounding.attention.call import AttentionCall


@dataclass(frozen=True)
class Pass:
    """One run of a stack of layers.

    Attributes:
        past: positions in the key/value cache before it.
        queries: Q, new positions that it reads; None where the call does not say (a vision tower).
        cache: the key/value cache, or None.
        inputs: the keyword arguments of the call.
    """

    past: int
    queries: int | None
    cache: Any = None
    inputs: Mapping[str, Any] | None = None


class Subscriber:
    """Base of everything that listens to attention events. Letters: B sequences, Q queries, E residual width."""

    def before_model(self, length: int) -> None:
        """The whole model is about to read `length` positions, before its vision tower runs."""

    def begin_pass(self, running: Pass) -> None:
        """A run of the stack is about to begin."""

    def end_pass(self, *, failed: bool) -> None:
        """The run is over; `failed` if it ended by an exception."""

    def wants(self, layer: int) -> bool:
        """Whether calls of this layer are of interest in the running pass; asked before a call is described."""
        return True

    def residual(self, layer: int, hidden: Tensor) -> None:
        """A layer's input [B, Q, E], before its attention."""

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """The call with one more edit; the same object where the kernel is to run it as it is, bit for bit."""
        return call

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        """A call, edits included, and its output [B, Q, H, Dv]. Change neither."""

    def gate(self, layer: int, outputs: Tensor) -> Tensor | None:
        """The heads' outputs [B, Q, H * Dv] before the output projection: new ones, or None to keep them."""
        return None


@dataclass(frozen=True)
class Scope:
    """Which events of a stack are emitted.

    Attributes:
        calls: layers whose attention calls are emitted.
        residuals: layers whose inputs are emitted.
        gates: layers whose heads' outputs are emitted.
        edits: whether the subscriber may edit calls.
    """

    calls: Collection[int] = ()
    residuals: Collection[int] = ()
    gates: Collection[int] = ()
    edits: bool = False


class Route:
    """A subscriber at work: which modules belong to which of its layers.

    Args:
        subscriber: receives the events.
        layers: the stack's layers.
        scope: which events.
    """

    def __init__(self, subscriber: Subscriber, layers: nn.ModuleList, scope: Scope) -> None:
        self.subscriber = subscriber
        self.edits = scope.edits
        self._layer_of = {id(module): i for i in scope.calls for module in layers[i].modules()}

    def layer(self, module: nn.Module) -> int | None:
        """The layer of a module whose call the subscriber wants now."""
        layer = self._layer_of.get(id(module))
        return layer if layer is not None and self.subscriber.wants(layer) else None

    @property
    def is_active(self) -> bool:
        """Whether the route was opened in this thread or async task, and not in another one using the same model."""
        return any(route is self for route in _ROUTES.get())


_ROUTES: ContextVar[tuple[Route, ...]] = ContextVar("grounding_attention_routes", default=())


def active_routes() -> tuple[Route, ...]:
    """The routes of this thread or async task, outermost first."""
    return _ROUTES.get()


@contextmanager
def opened(route: Route) -> Iterator[None]:
    """Send this thread's events along `route` too, inside the block."""
    token = _ROUTES.set((*_ROUTES.get(), route))
    try:
        yield
    finally:
        _ROUTES.reset(token)


@contextmanager
def without_edits() -> Iterator[None]:
    """Run passes unedited inside a steered block, for example over a prompt without its image."""
    token = _ROUTES.set(tuple(route for route in _ROUTES.get() if not route.edits))
    try:
        yield
    finally:
        _ROUTES.reset(token)
