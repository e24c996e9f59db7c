"""One batch as the model reads it, and what its tokens stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from grounding.layout import TokenLayout
from grounding.maps.base import LAST
from grounding.types import Word, WordKind


@dataclass(frozen=True)
class Prepared:
    """One batch, ready for the model. B is the batch size, N the padded sequence length.

    Attributes:
        inputs: tensors by the model's argument names, on the model's device, padded on the left.
        words: per element the words of the expression, then one word `<last>` of kind SPECIAL for the prompt's last
            token. A prompt without `{expression}` has its own words instead.
        layouts: per element the layout of its sequence; all have length N.
    """

    inputs: Mapping[str, torch.Tensor]
    words: tuple[tuple[Word, ...], ...]
    layouts: tuple[TokenLayout, ...]

    @property
    def length(self) -> int:
        """N, padding included."""
        return int(self.inputs["input_ids"].shape[1])

    def __len__(self) -> int:
        return len(self.words)


def last_word(position: int) -> Word:
    """The word `<last>`: the token at `position`, from which the next token is predicted."""
    return Word(LAST, (0, 0), (position,), WordKind.SPECIAL)
