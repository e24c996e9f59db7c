"""What steering acts on (`GenerationContext`) and what every part of a steering method is (`Intervention`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from grounding.types import IntArray

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM, Prepared
    from grounding.steering.decoding import Decoding, Generated


@dataclass(frozen=True)
class PromptSpans:
    """Which positions of one prompt belong to what; they count from 0 at the left end of the padded prompt.

    Attributes:
        system: real positions before the first image token.
        image: positions that hold image tokens.
        instruction: positions after the last image token.
        padding: how many positions before the first real one.
        length: N, the prompt's length, padding included.
    """

    system: IntArray
    image: IntArray
    instruction: IntArray
    padding: int
    length: int


@dataclass(frozen=True)
class GenerationContext:
    """The generation that is about to be steered.

    Attributes:
        vlm: the model.
        images: RGB pictures, one per element.
        questions: one per element.
        prepared: the batch made of both.
        decoding: how it will be generated.
    """

    vlm: VLM
    images: Sequence[Image.Image] = field(repr=False)
    questions: Sequence[str]
    prepared: Prepared = field(repr=False)
    decoding: Decoding

    def segments(self) -> tuple[PromptSpans, ...]:
        """Per element the parts of its prompt."""
        import numpy as np

        found = []
        for positions, padding in zip(self.prepared.image_positions, self.prepared.padding, strict=True):
            first, last = int(positions.min()), int(positions.max())
            found.append(
                PromptSpans(
                    system=np.arange(padding, first, dtype=np.int64),
                    image=positions,
                    instruction=np.arange(last + 1, self.prepared.length, dtype=np.int64),
                    padding=padding,
                    length=self.prepared.length,
                )
            )
        return tuple(found)


@dataclass(frozen=True)
class GenerateOverrides:
    """What a step changes in the call of `generate`, beside what it patches.

    Attributes:
        processors: logits processors, in order.
        options: further arguments, which win over the decoding's own (`max_new_tokens`, `custom_generate`).
        finish: what becomes of each finished text; None leaves it.
    """

    processors: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Generated], Generated] | None = None


class Intervention(Protocol):
    """One part of a steering method: a frozen dataclass whose fields are the method's numbers."""

    name: ClassVar[str]

    def applied(self, context: GenerationContext) -> AbstractContextManager[GenerateOverrides]:
        """Patch the model for one generation; everything is undone when the block ends, however it ends."""
