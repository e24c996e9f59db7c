"""How head gains are fitted, apart from the fitting so that a command line can be shown without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from grounding.errors import MethodError


@dataclass(frozen=True)
class FitSettings:
    """How gains are fitted.

    Attributes:
        passes: over all samples.
        batch: samples per step.
        emphasis: how many times as much a noun's token counts as another one; nouns are what can be invented.
        learning_rate: of Adam on the gains' logarithms; it falls to 0 in a straight line.
        penalty: on the mean square of the logarithms, which keeps gains at 1 where samples do not say otherwise.
        shared: one gain on image and one on text for all heads, the control for head-wise gains.
        seed: of the samples' order.
    """

    passes: int = 30
    batch: int = 16
    emphasis: float = 5.0
    learning_rate: float = 0.1
    penalty: float = 0.001
    shared: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        above = self.learning_rate > 0 and self.emphasis > 0
        if min(self.passes, self.batch) < 1 or not above or self.penalty < 0 or self.seed < 0:
            raise MethodError(
                "a fit needs passes and batch from 1, learning rate and emphasis above 0, penalty and seed from 0"
            )
