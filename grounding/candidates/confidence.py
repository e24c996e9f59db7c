"""How sure an answer is: the probability that its mask is right, from what can be seen without the truth.

A segmenter's own score judges the outline and is about as high for the mask of a wrong thing. This confidence is a
logistic function of how the chosen mask agrees with the map, how far it is ahead of the next thing, how sharp the map
is, the mask's size and shape, the segmenter's estimate, and the model's own answer when it is asked whether there is
such a thing. It is fitted on annotated pictures by `grounding calibrate confidence` and holds for the model, the
segmenter and the kind of candidates that it was fitted with.

Notes:
    The list of signals is our own. A mask counts as right from an IoU of `RIGHT` with the truth on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from grounding.candidates.base import RankedCandidate
from grounding.candidates.features import FEATURES
from grounding.candidates.fitted import FittedWith
from grounding.candidates.places import SAME_THING
from grounding.run_lengths import insides
from grounding.types import FloatArray, Heatmap

RIGHT = 0.5


@dataclass(frozen=True)
class Signals:
    """What a confidence is made of; also the weight of each.

    Attributes:
        agreement: correlation of the chosen mask with the map.
        concentration: see `grounding.candidates.features`.
        soft_iou: see there.
        estimate: the segmenter's own estimate.
        stability: of the chosen mask; see there, as for the eight that follow.
        consensus: mean IoU of the other candidates with it.
        holds: share of the other candidates that lie in it.
        held: share of the other candidates in which it lies.
        size: log2 of the share of the picture that it covers.
        fill: share of its box that it covers.
        connected: share of it in its largest connected part.
        border: share of the picture's borders that it touches.
        edge: share of the picture's outermost pixels that it covers.
        lead: how much more the chosen mask agrees with the map than the best of another thing does; the agreement
            itself where there is no other thing.
        sharpness: share of the map's cells that hold less than half of its largest value.
        background: the median of the map, which is scaled to a largest value of 1.
        presence: the model's share of yes, asked about the whole picture; 0 for a source that answers no questions.
        crop: its share of yes, asked about the chosen region alone; see `grounding.candidates.verification`.
    """

    agreement: float = 0.0
    concentration: float = 0.0
    soft_iou: float = 0.0
    estimate: float = 0.0
    stability: float = 0.0
    consensus: float = 0.0
    holds: float = 0.0
    held: float = 0.0
    size: float = 0.0
    fill: float = 0.0
    connected: float = 0.0
    border: float = 0.0
    edge: float = 0.0
    lead: float = 0.0
    sharpness: float = 0.0
    background: float = 0.0
    presence: float = 0.0
    crop: float = 0.0

    def array(self) -> FloatArray:
        """The values in the order of the fields, float64."""
        return np.array(astuple(self), np.float64)


SIGNALS = tuple(one.name for one in fields(Signals))
OF_MASK = tuple(name for name in SIGNALS if name in FEATURES)
"""The signals that are features of the chosen mask."""


@dataclass(frozen=True)
class Confidence(FittedWith):
    """A fitted confidence, and with what it was fitted.

    Attributes:
        intercept: the log odds where all signals are 0.
        weights: change of the log odds per unit of each signal.
        fitted_on: how many answers of which data, in words.
    """

    intercept: float
    weights: Signals
    fitted_on: str = ""

    def __call__(self, signals: Signals) -> float:
        """The probability that the mask is right, in [0, 1]."""
        odds = self.intercept + float(signals.array() @ self.weights.array())
        return float(1 / (1 + np.exp(-np.clip(odds, -50, 50))))

    @property
    def asks(self) -> bool:
        """Whether the model's own answers are among the signals."""
        return bool(self.weights.presence or self.weights.crop)


def signals_of(ranked: Sequence[RankedCandidate], heatmap: Heatmap) -> Signals:
    """Read the signals of an answer, without those for which the model must be asked.

    Args:
        ranked: all candidates, best first; at least one.
        heatmap: the map that they were compared with.
    """
    best, others = ranked[0], ranked[1:]
    masks = [one.candidate.packed for one in ranked]
    within = insides(masks)
    apart = np.maximum(within[0], within[:, 0]) <= SAME_THING
    rivals = [one.features["agreement"] for one, other in zip(others, apart[1:], strict=True) if other]
    agreement = best.features["agreement"]
    values = heatmap.values
    return Signals(
        **{name: best.features[name] for name in OF_MASK},
        lead=agreement - max(rivals, default=0.0),
        sharpness=float((values < 0.5 * values.max()).mean()),
        background=float(np.median(values)),
    )
