"""What a method asks of a diffusion transformer: words beside the prompt, edits of sinks, and what maps are read from.

A vision-language model refuses all of it but a plain `Readout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from grounding.errors import RecordingError

MagnetEncoding = Literal["separate", "inline"]
"""How a text encoder reads magnets: each alone, with an end token of its own, or behind the prompt in one string."""


@dataclass(frozen=True)
class MagnetWords:
    """Words appended to a prompt to attract attention that would otherwise fall on the wrong cells.

    Attributes:
        texts: the words, in order; repeated ones are appended as often.
        encoding: see `MagnetEncoding`.
        skip_content: leave out a content word, such as a colour, that the expression holds.
    """

    texts: tuple[str, ...]
    encoding: MagnetEncoding = "separate"
    skip_content: bool = True

    def __post_init__(self) -> None:
        if not self.texts or not all(text.strip() for text in self.texts):
            raise RecordingError(f"magnets {self.texts} must be at least one word, none of them blank")
        if self.encoding not in get_args(MagnetEncoding):
            raise RecordingError(
                f"magnet encoding {self.encoding!r} is unknown: use {', '.join(get_args(MagnetEncoding))}"
            )


@dataclass(frozen=True)
class TextSinkRule:
    """When a text token counts as a global attention sink; see `grounding.maps.text_sinks.TextSinks`.

    Attributes:
        share: least ratio of its mean weight over cells to equal weights.
        variation: largest coefficient of variation of its weight over cells.
        between: least ratio of its weight from other words to the median word's; 0 leaves this test out.
        start: where the layers that are looked at begin, as a share of the depth.
    """

    share: float = 1.7
    variation: float = 0.20
    between: float = 3.0
    start: float = 0.67


SinkEditing = Literal["mask", "redirect"]
"""What becomes of attention to sinks inside the network: `mask`, their logits are minus infinity, so all other keys
share what they had; `redirect`, the magnets have what they had, and every other weight stays.
"""

EditedQueries = Literal["image", "all"]
"""Whose attention to sinks is edited: that of the image's cells, or that of text tokens as well."""


@dataclass(frozen=True)
class SinkEdit:
    """How attention to text sinks is changed while a diffusion transformer runs.

    Attributes:
        how: see `SinkEditing`.
        rule: finds the sinks in a first, unedited run; a second run is edited where there are any.
        strongest: in place of a rule, the number of text keys per head that the image attends to most are the sinks,
            found anew in every layer and run; 0 uses the rule.
        queries: see `EditedQueries`.
        start: where the edited layers begin, as a share of the depth.
    """

    how: SinkEditing
    rule: TextSinkRule = TextSinkRule()
    strongest: int = 0
    queries: EditedQueries = "image"
    start: float = 0.0


@dataclass(frozen=True)
class Readout:
    """What a method's maps are read from.

    Attributes:
        what: `attention`: weights of cells on words. `outputs`: products of the attention outputs of cells and words,
            heads side by side, softmax over words at each cell and block (ConceptAttention, Helbling et al., ICML 2025,
            arXiv 2502.04320); it has one head.
        levels: noise levels in (0, 1) in place of the model's own; more than one are as many steps.
        draws: noise draws per level in place of the model's own.
        concepts: whose outputs are read. `prompt`: the tokens of the prompt. `stream`: every content word of the
            expression and every word of `background` is a concept of its own, encoded alone; its first token runs
            through the blocks beside the prompt, attends to image and concepts, and neither image nor prompt attends to
            it, so that the image is what it is without it.
        background: concepts that compete with the expression's; those that a closed vocabulary lacks are left out.
        pooled: what a model that takes the prompt's pooled vector gets: the `prompt`'s, or `zero`.
        temperature: divides the products before the softmax.
        unit: give words' outputs unit length first.

    Raises:
        RecordingError: a value is out of range, or belongs to another readout.

    Notes:
        ConceptAttention multiplies the outputs before they are projected, reads concepts by their first token alone,
        and gives them a pooled vector of zeros; with a picture in place of a prompt, the image gets it too. How a
        referring expression becomes concepts is our choice: a content word each.
    """

    what: Literal["attention", "outputs"] = "attention"
    levels: tuple[float, ...] = ()
    draws: int | None = None
    concepts: Literal["prompt", "stream"] = "prompt"
    background: tuple[str, ...] = ()
    pooled: Literal["prompt", "zero"] = "prompt"
    temperature: float = 1.0
    unit: bool = False

    def __post_init__(self) -> None:
        if not all(0 < level < 1 for level in self.levels):
            raise RecordingError(f"noise levels must lie between 0 (clean) and 1 (noise), got {self.levels}")
        if self.draws is not None and self.draws < 1:
            raise RecordingError(f"draws={self.draws} was given, expected at least 1 noise draw")
        if not self.temperature > 0:
            raise RecordingError(f"temperature={self.temperature} was given, expected a number above 0")
        if not all(text.strip() for text in self.background):
            raise RecordingError(f"a blank word is among the background concepts {self.background}: leave it out")
        if self.what == "attention" and (self.concepts, self.temperature, self.unit) != ("prompt", 1.0, False):
            raise RecordingError("concepts, temperature and unit are those of attention outputs: write 'what: outputs'")
        if self.background and self.concepts == "prompt":
            raise RecordingError("background concepts run beside the prompt: write 'concepts: stream'")
