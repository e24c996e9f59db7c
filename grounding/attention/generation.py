"""Follow calls of transformers' `generate`: how long the prompt is that a model was given, and how it is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MethodType
from typing import Any, Protocol

from torch import Tensor, nn

from grounding.attention.introspect import cache_of, cached_length
from grounding.attention.patches import SharedPatch
from grounding.compat import generation_options, wrapped_generate
from grounding.errors import RecordingError


@dataclass(frozen=True)
class Prompt:
    """Describe the prompt that `generate` was given.

    Attributes:
        length: N, positions of the prompt, padding and those in a given cache included.
        cached: positions of it in the key/value cache that was given; 0 without one.
        batch: B, prompts; `generate` itself repeats them for beams and samples.
        assisted: whether several candidate tokens are read in one pass: assisted generation or prompt lookup.
    """

    length: int
    cached: int
    batch: int
    assisted: bool


class GenerationListener(Protocol):
    """Receive the calls of `generate` made in this thread while `following` it."""

    def begin_generation(self, model: nn.Module, prompt: Prompt | None) -> None:
        """Handle the start of a generation; the prompt is None where its length cannot be told."""

    def end_generation(self, model: nn.Module) -> None:
        """Handle its end, also after an exception."""


_LISTENERS: ContextVar[tuple[GenerationListener, ...]] = ContextVar("grounding_generation_listeners", default=())


@contextmanager
def following(listener: GenerationListener) -> Iterator[None]:
    """Tell a listener of every `generate` of this thread inside the block."""
    with _PATCH.installed():
        token = _LISTENERS.set((*_LISTENERS.get(), listener))
        try:
            yield
        finally:
            _LISTENERS.reset(token)


@contextmanager
def _followed(model: nn.Module, inputs: Tensor | None, options: Mapping[str, Any]) -> Iterator[None]:
    listeners = _LISTENERS.get()
    prompt = _prompt(model, inputs, options) if listeners else None
    with ExitStack() as undo:
        for listener in listeners:
            undo.callback(listener.end_generation, model)
            listener.begin_generation(model, prompt)
        yield


_PATCH = SharedPatch(lambda: wrapped_generate(_followed))


def _prompt(model: nn.Module, inputs: Tensor | None, options: Mapping[str, Any]) -> Prompt | None:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None  # the ids are the encoder's
    given = options.get("inputs_embeds")
    if given is None:
        given = inputs if inputs is not None else options.get("input_ids")
    if not isinstance(given, Tensor) or given.ndim < 2:
        return None
    batch, count = given.shape[:2]
    cached = cached_length(cache_of(model, (), options))
    mask = options.get("attention_mask")
    if cached and isinstance(mask, Tensor) and mask.ndim == 2:
        length = max(int(mask.shape[1]), count)
    else:
        # With a cache, `generate` takes the whole sequence or its new positions alone.
        length = count if count > cached else cached + count
    assisted = any(generation_options(model, options, ("assistant_model", "prompt_lookup_num_tokens")))
    return Prompt(length, cached, batch, assisted)


class RefusedReorder:
    """Refuse to reorder a cache; a deep copy of the cache reorders as its class does."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __call__(self, *_: Any, **__: Any) -> None:
        """Refuse.

        Raises:
            RecordingError: always.
        """
        raise RecordingError(
            "beam search reorders the cache between steps, so a recorded decode row would not belong to the returned "
            "text; generate with num_beams=1, or record with decode=False"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._cache))
        return self if copied is None else MethodType(type(copied).reorder_cache, copied)
