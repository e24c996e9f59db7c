"""What steering acts on (`GenerationContext`) and what every part of a steering method is (`Intervention`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM, Prepared
    from grounding.steering.decoding import Decoding, Generated


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
