"""Define the input of steering (`GenerationContext`) and the protocol of a steering step (`Intervention`)."""

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
    """Describe one batch before it is generated.

    Attributes:
        vlm: the model.
        images: RGB images, one per element.
        questions: one per element.
        prepared: the model's inputs, built from images and questions.
        decoding: settings of `generate`.
    """

    vlm: VLM
    images: Sequence[Image.Image] = field(repr=False)
    questions: Sequence[str]
    prepared: Prepared = field(repr=False)
    decoding: Decoding


@dataclass(frozen=True)
class GenerateOverrides:
    """Override arguments of `generate`, and post-process its texts.

    Attributes:
        processors: logits processors, applied in order.
        options: keyword arguments of `generate`; they take precedence over those of `Decoding`.
        finish: a function applied to each generated text; None keeps the text.
    """

    processors: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Generated], Generated] | None = None


class Intervention(Protocol):
    """Define one step of a steering method: a frozen dataclass whose fields are the step's parameters.

    Another distribution adds a step by an entry point in the group `grounding.steering_steps`; the entry's name is the
    step's name in steering files and must equal the class attribute `name` (kebab-case). In its pyproject.toml::

        [project.entry-points."grounding.steering_steps"]
        quiet = "my_package.steps:Quiet"

    with the class::

        @dataclass(frozen=True)
        class Quiet:
            share: float = 0.5

            name: ClassVar[str] = "quiet"

            @contextmanager
            def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
                with apply(context.vlm.model, QuietEditor(self), context.prepared.length, len(context.prepared)):
                    yield GenerateOverrides()

    The fields are the keys of the step's entry in a steering file (`- {step: quiet, share: 0.3}`), checked by
    `grounding.schema`. A step may edit attention (`grounding.steering.apply.apply`), add logits processors or replace
    the decoding loop (`GenerateOverrides`). A step that edits chosen heads, layers and keys derives from
    `grounding.steering.modulation.Modulation` and implements `edit` in place of `applied`.

    Two members are optional. A step that follows several texts at once, as a beam search does, says so by the class
    attribute `searches = True`; its texts are then not streamed. A method `check(vlm, decoding)` raises `MethodError`
    where the step does not fit, before anything runs.
    """

    name: ClassVar[str]

    def applied(self, context: GenerationContext) -> AbstractContextManager[GenerateOverrides]:
        """Patch the model for one generation; undo all patches when the block ends, also after an exception.

        Raises:
            MethodError: the step does not fit the model or the decoding.
        """
