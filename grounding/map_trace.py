"""Follow recorded attention through a method's stages: the map after each, and what became of every word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from grounding.equality import ByValue
from grounding.maps.compose import Compose
from grounding.maps.word_statistics import image_shares, spatial_variations
from grounding.methods import Method, run_stages
from grounding.types import AttentionMaps, Direction, FloatArray, Heatmap, StageReport, Word


@dataclass(frozen=True)
class Dropping:
    """Why a word's attention is not in the final map.

    Attributes:
        stage: the stage that left it out.
        why: in a few words.
    """

    stage: str
    why: str


@dataclass(frozen=True, eq=False)
class WordTrace(ByValue):
    """One word, from its recorded attention to its part in the final map.

    Attributes:
        word: as recorded.
        share: of the weights between all words and the image, in [0, 1].
        variation: of its weights over the image's cells: standard deviation / mean.
        map: its weights alone, before the first stage.
        weight: in the final map, in [0, 1]; 0 for a dropped word.
        dropped: which stage left it out and why; None for a word that is in the final map.
    """

    word: Word
    share: float
    variation: float
    map: Heatmap
    weight: float
    dropped: Dropping | None


@dataclass(frozen=True, eq=False)
class StageTrace(ByValue):
    """The map after one stage.

    Attributes:
        report: what the stage removed.
        map: the mean over the words, layers and heads that are left.
        moved: share of the map that lies elsewhere than before the stage, in [0, 1]: half the sum of absolute
            differences of the two maps, each divided by its sum.
    """

    report: StageReport
    map: Heatmap
    moved: float


@dataclass(frozen=True, eq=False)
class MapTrace(ByValue):
    """How a heat map came about.

    Attributes:
        direction: of the attention.
        words: every recorded word, special tokens included.
        recorded: the map before the first stage.
        stages: the maps after each.
        map: the final heat map.
    """

    direction: Direction
    words: tuple[WordTrace, ...]
    recorded: Heatmap
    stages: tuple[StageTrace, ...]
    map: Heatmap


def trace_map(method: Method, maps: AttentionMaps) -> MapTrace:
    """Take recorded maps through a method's stages, and keep the map after each.

    Args:
        method: the method.
        maps: recorded attention, with `background` where the method has a contrast.

    Returns:
        The trace; its `map` is that of `run_stages`.

    Raises:
        GroundingError: see `run_stages`.
    """
    compose = replace(method.compose, upscale=1)
    fates = _Fates(maps.words)
    recorded = compose(maps)
    stages: list[StageTrace] = []

    def watch(after: AttentionMaps, report: StageReport) -> None:
        fates.follow(after.words, report)
        before = stages[-1].map if stages else recorded
        composed = compose(after)
        stages.append(StageTrace(report, composed, moved_share(before.values, composed.values)))

    heatmap = run_stages(method, maps, watch)
    return MapTrace(maps.direction, _words(maps, compose, fates), recorded, tuple(stages), heatmap)


def moved_share(before: FloatArray, after: FloatArray) -> float:
    """Share of a map [h, w] that lies elsewhere in another of its shape: 0 where they are equal up to scale, 1 where
    they share no cell. A map of zeros counts as even, because a composed map is 0 where no cell stands out.
    """
    return float(0.5 * np.abs(as_shares(before) - as_shares(after)).sum())


def as_shares(values: FloatArray) -> npt.NDArray[np.float64]:
    """A map divided by its sum; even where it is all 0."""
    wide = values.astype(np.float64)
    total = wide.sum()
    return wide / total if total > 0 else np.full(wide.shape, 1 / wide.size)


class _Fates:
    """Follows words through stages by what these report, and by which words are left after them.

    Args:
        words: the recorded words.
    """

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = tuple(words)
        self.dropped: dict[int, Dropping] = {}
        self.weights: dict[int, float] | None = None  # once the words are joined
        self._given = list(range(len(words)))  # for each word of the latest maps, which recorded one it is

    def follow(self, after: Sequence[Word], report: StageReport) -> None:
        """Take in one stage.

        Args:
            after: the words of the stage's result.
            report: its report, whose indices are of the words of the latest result before it.
        """
        if self.weights is not None:
            return
        for index, why in report.dropped.items():
            if 0 <= index < len(self._given):
                self.dropped.setdefault(self._given[index], Dropping(report.stage, why))
        if report.weights:
            self.weights = dict(zip(self._given, report.weights, strict=False))
            return
        left = self._left(after)
        if left is None:  # joined, without a word about how much each counts
            kept = [one for one in self._given if one not in self.dropped]
            self.weights = {one: 1 / len(kept) for one in kept}
            return
        for one in self._given:
            if one not in left:
                self.dropped.setdefault(one, Dropping(report.stage, f"left out by {report.stage}"))
        self._given = left

    def _left(self, after: Sequence[Word]) -> list[int] | None:
        """Which recorded word each of the words after a stage is; None where they are other words."""
        remaining, left = list(self._given), []
        for word in after:
            at = next((i for i, one in enumerate(remaining) if _same_word(self.words[one], word)), None)
            if at is None:
                return None
            left.append(remaining[at])
            del remaining[: at + 1]
        return left

    def final(self) -> list[float]:
        """Each recorded word's weight in the final map; words that no stage joined count alike."""
        kept = [one for one in self._given if one not in self.dropped]
        weights = self.weights if self.weights is not None else {one: 1 / len(kept) for one in kept}
        return [0.0 if one in self.dropped else weights.get(one, 0.0) for one in range(len(self.words))]


def _same_word(one: Word, other: Word) -> bool:
    """Whether two words stand for the same tokens; a stage may have changed what they are to a map."""
    return (one.text, one.span, one.positions) == (other.text, other.span, other.positions)


def _words(maps: AttentionMaps, compose: Compose, fates: _Fates) -> tuple[WordTrace, ...]:
    shares, variations, weights = image_shares(maps), spatial_variations(maps), fates.final()
    found = []
    for index, word in enumerate(maps.words):
        rows = maps.values[:, :, :, index : index + 1]
        alone = compose(replace(maps, values=rows, words=(word,), text_to_text=None, logits=None, background=None))
        share, variation = float(shares[index]), float(variations[index])
        found.append(WordTrace(word, share, variation, alone, weights[index], fates.dropped.get(index)))
    return tuple(found)
