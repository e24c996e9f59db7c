"""Define the strength of a modulation over the generated text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grounding.errors import MethodError


@dataclass(frozen=True)
class StrengthSchedule:
    """Set the strength at each step: step 0 reads the prompt, step t reads the t-th generated token.

    Attributes:
        kind: `constant`, 1 at every step; `linear`, from `first` to `last` over `tokens` steps, then `last`; `decay`,
            halved every `tokens` steps; `window`, 1 for `start` <= step < `stop`, else 0.
        tokens: number of steps of `linear` and `decay`, >= 1.
        first: strength of `linear` at step 0, >= 0.
        last: strength of `linear` from step `tokens` on, >= 0.
        start: first step of `window`.
        stop: end of `window`, exclusive; None has no end.

    Raises:
        MethodError: a value is out of range.
    """

    kind: Literal["constant", "linear", "decay", "window"] = "constant"
    tokens: int = 64
    first: float = 0.0
    last: float = 1.0
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.first < 0 or self.last < 0:
            raise MethodError("a schedule needs tokens >= 1 and strengths that are not negative")

    def strength(self, step: int) -> float:
        """Return the strength at a step; 0 disables the edit."""
        if self.kind == "linear":
            return self.first + (self.last - self.first) * min(step / self.tokens, 1.0)
        if self.kind == "decay":
            return float(0.5 ** (step / self.tokens))
        if self.kind == "window":
            return float(step >= self.start and (self.stop is None or step < self.stop))
        return 1.0
