"""The truncation curve: CHAIR of the same captions cut after k words and punctuation marks.

Shorter captions name fewer wrong objects and fewer right ones. A method improves on truncation only where its point
lies below this curve at the same recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.chair.lexicon import Lexicon
from evals.chair.score import CaptionScore, cut, ratios

LENGTHS = (20, 30, 40, 50, 64, 80, 100, 120)


@dataclass(frozen=True)
class CurvePoint:
    """The metrics at one cut: fractions in [0, 1], except the length.

    Attributes:
        k: length of the cut captions, in words and punctuation marks.
        chair_s: share of captions with a hallucinated object.
        chair_i: share of mentions that are hallucinated.
        chair_i_distinct: the same with each class counted once per caption.
        recall: share of the images' classes that are named.
        f1: of precision and recall over distinct classes.
        length: mean length after the cut.
    """

    k: int
    chair_s: float
    chair_i: float
    chair_i_distinct: float
    recall: float
    f1: float
    length: float


def curve_point(scores: Sequence[CaptionScore], k: int, lexicon: Lexicon) -> CurvePoint:
    """Score every caption cut after k words and punctuation marks."""
    found = ratios([cut(one, k, lexicon) for one in scores])
    names = ("chair_s", "chair_i", "chair_i_distinct", "recall", "f1", "length")
    return CurvePoint(k, **{name: found[name].value for name in names})


def truncation_curve(
    scores: Sequence[CaptionScore], lexicon: Lexicon, lengths: Sequence[int] = LENGTHS
) -> tuple[CurvePoint, ...]:
    """Compute one point per length."""
    return tuple(curve_point(scores, length, lexicon) for length in lengths)
