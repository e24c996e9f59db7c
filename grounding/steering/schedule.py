"""Where and when a modulation acts: decoder layers, and its strength over the generated text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grounding.errors import MethodError


@dataclass(frozen=True)
class LayerRange:
    """A stretch of decoder layers. A whole number is a layer, a fraction in [0, 1] a share of the depth.

    Attributes:
        start: the first layer.
        stop: the first layer after the stretch; 1.0 is behind the last one.
    """

    start: int | float = 0
    stop: int | float = 1.0

    def __post_init__(self) -> None:
        for name, bound in (("start", self.start), ("stop", self.stop)):
            if bound < 0 or (isinstance(bound, float) and bound > 1):
                raise MethodError(
                    f"layers {name} {bound} was given, expected a layer's whole number or a share of the depth in "
                    "[0, 1] (1.0 and not 1 is the whole depth)"
                )

    def chosen(self, count: int) -> tuple[int, ...]:
        """The layers of a decoder with `count` of them; a share is rounded to the nearest layer.

        Raises:
            MethodError: there is none.
        """
        ends = [round(b * count) if isinstance(b, float) else min(b, count) for b in (self.start, self.stop)]
        if ends[0] >= ends[1]:
            raise MethodError(f"layers from {self.start} to {self.stop} are none of the model's {count}")
        return tuple(range(*ends))


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
