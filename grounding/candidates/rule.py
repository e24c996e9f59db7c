"""How candidates are proposed and chosen, as a method file's `candidates` says it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields, replace
from typing import Literal, get_args

import numpy as np

from grounding.candidates.features import FEATURES
from grounding.candidates.fitted import FittedWith
from grounding.errors import MethodError
from grounding.points import Threshold
from grounding.segmenters.automatic import AutomaticMasks
from grounding.types import FloatArray

Kind = Literal["points", "auto", "sam3", "boxes"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Weights:
    """The weight of each feature in a candidate's score; see `grounding.candidates.features`.

    Notes:
        The defaults are our choice: agreement with the map and, twice as heavy, the segmenter's estimate, on a scale
        where a difference of 1 is a factor of e in the odds. Their ratio was chosen with `starter-photo` and the
        candidates `boxes` on 50 nouns of 26 photos set aside for fitting, and nothing about them was chosen for any
        other model, segmenter or kind of candidates. They are used where no weights were fitted, and in place of
        weights that were fitted with something else; `grounding calibrate confidence --weights` fits weights, as it did
        for the method `starter-photo`.
    """

    agreement: float = 2.5
    contrast: float = 0.0
    mass: float = 0.0
    concentration: float = 0.0
    soft_iou: float = 0.0
    peak: float = 0.0
    estimate: float = 5.0
    stability: float = 0.0
    consensus: float = 0.0
    holds: float = 0.0
    held: float = 0.0
    size: float = 0.0
    size_squared: float = 0.0
    fill: float = 0.0
    connected: float = 0.0
    border: float = 0.0
    edge: float = 0.0

    def array(self) -> FloatArray:
        """The weights in the order of `FEATURES`."""
        return np.array(astuple(self), np.float32)


@dataclass(frozen=True)
class CandidateRule:
    """How candidates are proposed, and how the attention chooses among them.

    Attributes:
        kind: who proposes. `points`: the segmenter's masks of the method's points, chosen by the method's mask rule;
            `boxes`: those and the masks of several other prompts of the map; `auto`: all masks of the picture from a
            grid of points; `sam3`: SAM 3's instances of the head noun.
        weights: of the features, for every kind but `points`.
        weights_fitted_on: how many answers of which data, in words, where weights were fitted.
        weights_fitted_with: the model, segmenter and kind of candidates with which weights, place and margin were
            fitted; see `holding_for`. None for weights that hold for all.
        place: weight of the expression's spatial words ("left", "second from the right", "larger").
        margin: candidates that score lower than the best by more than this do not count among the things that spatial
            words choose from.
        doubles: candidates that overlap one of a higher estimate by more than this IoU are left out.
        peaks: most peaks that are prompts of their own.
        peak_height: least height of a peak, as a share of the map's largest value.
        peak_spacing: least distance of two peaks, as a share of the map's longer side.
        boxes: thresholds, as shares of the largest value or `otsu`; the box around the peak's region at each is a
            prompt.
        whole_boxes: the same for the box around all cells above the threshold.
        grid: how the masks of `auto` are proposed.
        concepts: hub id or folder of the SAM 3 of `sam3`.
        least_concept: instances of a lower score are left out.
        least_confidence: an answer of a lower confidence is none; 0 always answers.
        verify: show the chosen region to the model again and ask; see `grounding.candidates.verification`.
        shown: most candidates in a result's ranking.

    Raises:
        MethodError: a number is out of its range.
    """

    kind: Kind = "points"
    weights: Weights = field(default_factory=Weights)
    weights_fitted_on: str = ""
    weights_fitted_with: FittedWith | None = None
    place: float = 2.0
    margin: float = 1.5
    doubles: float = 0.95
    peaks: int = 4
    peak_height: float = 0.3
    peak_spacing: float = 0.15
    boxes: tuple[Threshold, ...] = (0.2, 0.3, 0.5, "otsu")
    whole_boxes: tuple[Threshold, ...] = (0.5, "otsu")
    grid: AutomaticMasks = field(default_factory=AutomaticMasks)
    concepts: str = "facebook/sam3"
    least_concept: float = 0.3
    least_confidence: float = 0.0
    verify: bool = False
    shown: int = 5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MethodError(f"candidates of kind {self.kind!r} are not known: choose {', '.join(KINDS)}")
        shares = ("doubles", "peak_height", "peak_spacing", "least_concept", "least_confidence")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise MethodError(f"candidates need {name} in [0, 1], got {getattr(self, name)}")
        if self.peaks < 0 or self.shown < 1 or self.margin < 0 or self.place < 0:
            raise MethodError(
                "candidates need peaks, margin and place of at least 0 and shown of at least 1, got "
                f"{self.peaks}, {self.margin}, {self.place}, {self.shown}"
            )
        for threshold in (*self.boxes, *self.whole_boxes):
            if threshold != "otsu" and not 0 < float(threshold) <= 1:
                raise MethodError(f"candidates need thresholds of boxes in (0, 1] or 'otsu', got {threshold}")

    def holding_for(self, model: str, segmenter: str) -> CandidateRule:
        """The rule as it holds for a model and a segmenter.

        Args:
            model: name of the model.
            segmenter: name of the segmenter.

        Returns:
            The rule itself; where its weights were fitted with another model, segmenter or kind of candidates, one with
            the default weights, place and margin instead.
        """
        if self._holds_for(model, segmenter):
            return self
        plain = CandidateRule()
        return replace(
            self,
            weights=plain.weights,
            weights_fitted_on="",
            weights_fitted_with=None,
            place=plain.place,
            margin=plain.margin,
        )

    def why_default(self, model: str, segmenter: str) -> str | None:
        """Say, without a full stop, that the default weights choose because the rule's do not hold; None where they do.

        Args:
            model: name of the model.
            segmenter: name of the segmenter.
        """
        fitted = self.weights_fitted_with
        if fitted is None or self.kind == "points" or self._holds_for(model, segmenter):
            return None
        return (
            f"candidates were chosen by the default weights: the method's were fitted with {fitted.model}, "
            f"{fitted.segmenter} and --candidates {fitted.candidates}, and {model}, {segmenter} and --candidates "
            f"{self.kind} were used; grounding calibrate confidence --weights fits weights for these"
        )

    def _holds_for(self, model: str, segmenter: str) -> bool:
        fitted = self.weights_fitted_with
        return fitted is None or fitted.holds_for(model, segmenter, self.kind)


assert tuple(one.name for one in fields(Weights)) == FEATURES
