"""The truncation curve: CHAIR of the same captions cut after k words and punctuation marks.

Shorter captions name fewer wrong objects and fewer right ones. A method improves on truncation only where its point
lies below this curve at the same recall.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evals.chair.lexicon import Lexicon
from evals.chair.score import CaptionScore, cut

LENGTHS = (20, 30, 40, 50, 64, 80, 100, 120)
_SUMS = 8  # the arguments of `_point` but the first


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


class CurveSums:
    """The sums behind a truncation curve, added caption by caption."""

    def __init__(self, lexicon: Lexicon, lengths: Sequence[int] = LENGTHS) -> None:
        self._lexicon = lexicon
        self._lengths = tuple(lengths)
        self._sums = {length: [0] * _SUMS for length in lengths}

    def add(self, score: CaptionScore) -> None:
        """Add one caption, cut to every length."""
        # Whether a seat is a chair depends on a toilet before the cut; elsewhere a cut only drops the last mentions.
        by_words = "seat" in score.words and "toilet" in score.words
        for length, sums in self._sums.items():
            if length >= len(score.words):
                mentions, wrong = score.mentions, len(score.hallucinated)
            elif by_words:
                shorter = cut(score, length, self._lexicon)
                mentions, wrong = shorter.mentions, len(shorter.hallucinated)
            else:
                mentions = score.mentions[: bisect_left(score.places, length)]
                wrong = sum(one not in score.truth for one in mentions)
            distinct = set(mentions)
            row = (wrong > 0, wrong, len(mentions), len(distinct), len(distinct & score.truth), len(score.truth))
            for place, value in enumerate((1, *row, min(length, len(score.words)))):
                sums[place] += value

    def points(self) -> tuple[CurvePoint, ...]:
        """One point per length."""
        return tuple(_point(length, *self._sums[length]) for length in self._lengths)


def truncation_curve(
    scores: Iterable[CaptionScore], lexicon: Lexicon, lengths: Sequence[int] = LENGTHS
) -> tuple[CurvePoint, ...]:
    """Score every caption cut after each number of words and punctuation marks."""
    sums = CurveSums(lexicon, lengths)
    for one in scores:
        sums.add(one)
    return sums.points()


def curve_point(scores: Iterable[CaptionScore], k: int, lexicon: Lexicon) -> CurvePoint:
    """Score every caption cut after k words and punctuation marks."""
    return truncation_curve(scores, lexicon, (k,))[0]


def _point(
    k: int, n: int, hallucinating: int, wrong: int, mentions: int, distinct: int, correct: int, shown: int, length: int
) -> CurvePoint:
    def share(top: float, bottom: float) -> float:
        return top / bottom if bottom else 0.0

    return CurvePoint(
        k=k,
        chair_s=share(hallucinating, n),
        chair_i=share(wrong, mentions),
        chair_i_distinct=share(distinct - correct, distinct),
        recall=share(correct, shown),
        f1=share(2 * correct, distinct + shown),
        length=share(length, n),
    )
