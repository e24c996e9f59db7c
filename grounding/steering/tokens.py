"""Which image tokens a modulation is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grounding.steering.base import Subject
from grounding.types import IntArray


@dataclass(frozen=True)
class TokenChoice:
    """A choice of image keys.

    Attributes:
        choice: `all`, every position that holds an image token.
    """

    choice: Literal["all"] = "all"

    def select(self, subject: Subject) -> tuple[IntArray, ...]:
        """Per element the chosen positions in the padded prompt."""
        return subject.prepared.image_positions
