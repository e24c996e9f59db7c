"""What passes between a diffusion family and the reading of its maps: a prompt, its encoding, a pipeline's own call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grounding.diffusion.sequence import LatentShape
from grounding.diffusion.tokens import TextToken
from grounding.types import Word


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
