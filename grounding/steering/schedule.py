"""When a modulation acts: its strength over the generated text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grounding.errors import MethodError


@dataclass(frozen=True)
class StrengthSchedule:
    """Strength over the text: step 0 is the prompt, step t reads the t-th generated token.

    Attributes:
        kind: `constant`, 1 throughout; `linear`, from `first` to `last` over `tokens` steps, then `last`; `decay`,
            halved every `tokens` steps; `window`, 1 from step `start` until before step `stop`, else 0.
        tokens: see `kind`.
        first: strength of `linear` at step 0.
        last: strength of `linear` from step `tokens` on.
        start: first step of `window`.
        stop: first step after `window`; None is never.
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
        """Strength at a step; 0 is no steering."""
        if self.kind == "linear":
            return self.first + (self.last - self.first) * min(step / self.tokens, 1.0)
        if self.kind == "decay":
            return float(0.5 ** (step / self.tokens))
        if self.kind == "window":
            return float(step >= self.start and (self.stop is None or step < self.stop))
        return 1.0
