"""The counts behind CHAIR's metrics, one row of numbers per caption, so that captions are scored as they are read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from evals.statistics import RatioOfSums, mean_of
from evals.textquality import TextQuality

if TYPE_CHECKING:
    import numpy.typing as npt


class Countable(Protocol):
    """What is counted of a caption; see `evals.chair.score.CaptionScore`."""

    @property
    def image_id(self) -> int:
        """The image."""

    @property
    def words(self) -> tuple[str, ...]:
        """Base words."""

    @property
    def mentions(self) -> tuple[str, ...]:
        """The classes named."""

    @property
    def hallucinated(self) -> tuple[str, ...]:
        """The mentions whose class the image does not show."""

    @property
    def truth(self) -> frozenset[str]:
        """The image's classes."""

    @property
    def quality(self) -> TextQuality:
        """Repetition and ending."""


class CaptionCounts:
    """Eleven numbers per caption, added caption by caption: 88 bytes each, whatever a caption's length."""

    _COLUMNS = 11

    def __init__(self) -> None:
        self._numbers = array("q")

    @classmethod
    def of(cls, scores: Iterable[Countable]) -> CaptionCounts:
        """Count every caption."""
        counts = cls()
        for one in scores:
            counts.add(one)
        return counts

    def add(self, one: Countable) -> None:
        """Count one caption."""
        classes, quality = set(one.mentions), one.quality
        self._numbers.extend(
            (
                one.image_id,
                len(one.mentions),
                len(one.hallucinated),
                len(classes),
                len(classes & one.truth),
                len(one.truth),
                len(one.words),
                quality.grams,
                quality.distinct_grams,
                quality.repeats,
                quality.cut_off,
            )
        )

    def __len__(self) -> int:
        """Number of captions."""
        return len(self._numbers) // self._COLUMNS

    @property
    def empty(self) -> int:
        """Captions without a word."""
        return int((self._table()[:, 6] == 0).sum())

    def ratios(self) -> dict[str, RatioOfSums]:
        """Every metric of `evals.chair.score.ChairScore` as a ratio of sums, by name."""
        groups, *columns = self._table().T
        mentions, wrong, distinct, correct, shown, words, grams, distinct_grams, repeats, cut_off = (
            column.astype(np.float64) for column in columns
        )
        different = np.divide(distinct_grams, grams, out=np.zeros_like(grams), where=grams > 0)
        return {
            "chair_s": mean_of(wrong > 0, groups),
            "chair_i": RatioOfSums(wrong, mentions, groups),
            "recall": RatioOfSums(correct, shown, groups),
            "precision": RatioOfSums(correct, distinct, groups),
            # 2PR / (P + R) with P = correct / distinct and R = correct / shown.
            "f1": RatioOfSums(2 * correct, distinct + shown, groups),
            "length": mean_of(words, groups),
            "chair_i_distinct": RatioOfSums(distinct - correct, distinct, groups),
            "distinct_objects": mean_of(distinct, groups),
            "distinct_rate": RatioOfSums(distinct, mentions, groups),
            "distinct_4": RatioOfSums(different, (grams > 0).astype(np.float64), groups),
            "repeated_sentences": mean_of(repeats, groups),
            "cut_off": mean_of(cut_off, groups),
        }

    def _table(self) -> npt.NDArray[np.int64]:
        """[captions, columns] the numbers."""
        return np.frombuffer(self._numbers, np.int64).reshape(-1, self._COLUMNS)
