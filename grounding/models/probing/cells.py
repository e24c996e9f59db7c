"""Image tokens that move with the picture, and where they lie in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProbedCell:
    """One image token that moves.

    Attributes:
        place: its index among the picture's image tokens.
        position: its position in the sequence.
        middle: (x, y) in pixels of the part of the picture that it shows.
        low: (x, y) of that part's top left corner, roughly: resampling carries it outwards.
        high: (x, y) of the bottom right corner, likewise.
    """

    place: int
    position: int
    middle: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def length(self) -> tuple[float, float]:
        """(width, height)."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]


Row = list[ProbedCell]
Rows = list[Row]
