"""Define the settings of the gain fit; this module does not import torch, so the command line's help stays fast."""

from __future__ import annotations

from dataclasses import dataclass

from grounding.errors import MethodError


@dataclass(frozen=True)
class FitSettings:
    """Set the optimisation of head gains.

    Attributes:
        passes: epochs over all samples, >= 1.
        batch: samples per optimiser step, >= 1.
        emphasis: weight of a noun's token relative to other tokens, > 0; nouns are what can be hallucinated.
        learning_rate: of Adam on the gains' logarithms, > 0; it decays linearly to 0.
        penalty: weight of the mean squared log gain in the loss, >= 0; it pulls gains towards 1.
        shared: fit one gain on image and one on text for all heads, the control for head-wise gains.
        seed: of the sample order, >= 0.

    Raises:
        MethodError: a value is out of range.
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
