"""What passes between a diffusion family and the reading of its maps: a prompt, its encoding, a pipeline's own call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from grounding.diffusion.sequence import LatentShape
from grounding.diffusion.tokens import TextToken
from grounding.types import Word

_POOLED = ("pooled_projections",)


@dataclass(frozen=True)
class TextPrompt:
    """A prompt and its words.

    Attributes:
        text: what the text encoders read.
        words: words with spans in `text`.
        start: characters of the template before the expression.
    """

    text: str
    words: tuple[Word, ...]
    start: int = 0


@dataclass(frozen=True)
class Encoded:
    """A prompt as the transformer takes it.

    Attributes:
        tokens: one per position of the text sequence, padding included.
        inputs: arguments of the transformer, batch of one.
    """

    tokens: tuple[TextToken, ...]
    inputs: Mapping[str, Any]

    def without_pooled(self) -> Encoded:
        """The same with zeros in place of the prompt's pooled vector, where the transformer takes one."""
        pooled = {name: torch.zeros_like(self.inputs[name]) for name in _POOLED if name in self.inputs}
        return replace(self, inputs={**self.inputs, **pooled})


@dataclass(frozen=True)
class Observed:
    """What a pipeline's own call of the transformer runs on.

    Attributes:
        batch: elements of its batch, guidance halves included.
        text_length: positions of the text sequence.
        latents: the latent grid.
    """

    batch: int
    text_length: int
    latents: LatentShape
