"""Words and maps on their way through a method's stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_maps import LAST, WORDS, made_maps, one_row, suited, with_background

from grounding.map_trace import Dropping, moved_share, trace_map
from grounding.maps.base import Stage
from grounding.maps.word_statistics import image_shares, spatial_variations
from grounding.methods import load_method, method_names, parse_method, run_stages
from grounding.types import AttentionMaps, StageReport, Word, WordKind


def method(*stages: Stage, compose: str = "{}"):
    empty = parse_method(f"{{description: d, source: s, stages: [], compose: {compose}}}", "made", "made")
    return replace(empty, stages=stages)


@dataclass(frozen=True)
class Emptying(Stage):
    """Empties a word's row and leaves the word where it is, as a stage that masks a sink does."""

    name: ClassVar[str] = "emptying"
    index: int = 0

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        values = maps.values.copy()
        values[:, :, :, self.index] = 0
        return replace(maps, values=values), StageReport(self.name, 0.1, "one", dropped={self.index: "a sink"})


@dataclass(frozen=True)
class Silent(Stage):
    """Takes words away without saying why, as a stage of another package may."""

    name: ClassVar[str] = "silent"
    keep: tuple[int, ...] = (1, 2)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        kept = tuple(replace(maps.words[i], kind=WordKind.CONTENT) for i in self.keep)
        values = maps.values[:, :, :, self.keep]
        return replace(maps, values=values, words=kept, logits=None), StageReport(self.name, 0.0, "")


@dataclass(frozen=True)
class Joining(Stage):
    """Joins words without saying how much each counts."""

    name: ClassVar[str] = "joining"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        word = Word("all", (0, 0), (), WordKind.SPECIAL)
        joined = replace(maps, values=maps.values.max(3, keepdims=True), words=(word,), logits=None)
        return joined, StageReport(self.name, 0.0, "the largest")


@pytest.mark.parametrize("name", method_names())
def test_tracing_changes_nothing_and_keeps_a_map_for_every_stage(name):
    loaded = load_method(name)
    maps = made_maps(heads=5)  # the heads that `starter-photo` reads are among them
    maps = with_background(maps) if loaded.record_spec().has_background else maps
    maps = suited(maps, *loaded.stages)
    trace = trace_map(loaded, maps)
    assert trace.map == run_stages(loaded, maps)
    assert tuple(one.report for one in trace.stages) == trace.map.stages
    assert all(one.map.values.shape == (4, 6) for one in trace.stages)  # the model's cells, not the enlarged ones
    assert sum(one.weight for one in trace.words) == pytest.approx(1, abs=1e-5)
    assert all((one.dropped is None) == (one.weight > 0) for one in trace.words)


def test_words_carry_their_statistics_their_own_map_and_who_dropped_them():
    maps = made_maps()
    trace = trace_map(load_method("diffusion"), replace(maps, direction="image-to-word"))
    np.testing.assert_allclose([one.share for one in trace.words], image_shares(maps), rtol=1e-6)
    np.testing.assert_allclose([one.variation for one in trace.words], spatial_variations(maps), rtol=1e-6)
    unread = Dropping("rows", "the method reads content words")
    assert [one.dropped for one in trace.words] == [Dropping("stop-words", "stop word"), None, None, unread, unread]
    assert [one.weight for one in trace.words] == [0, 0.5, 0.5, 0, 0]
    star = maps.values[0, :, :, 2, 4:].mean((0, 1)).reshape(4, 6)
    star = (star - star.min()) / (star.max() - star.min())
    np.testing.assert_allclose(trace.words[2].map.values, star, atol=1e-5)


def test_a_word_that_is_emptied_and_later_taken_away_keeps_the_first_reason():
    trace = trace_map(method(Emptying(index=0), *load_method("diffusion").stages[2:4]), made_maps())
    assert trace.words[0].dropped == Dropping("emptying", "a sink")
    assert trace.words[0].weight == 0


def test_indices_are_of_the_words_that_a_stage_was_given():
    trace = trace_map(method(Silent(keep=(1, 2, 4)), Emptying(index=1)), made_maps())
    assert [one.dropped and one.dropped.stage for one in trace.words] == ["silent", None, "emptying", "silent", None]
    assert trace.words[0].dropped.why == "left out by silent"
    assert [one.weight for one in trace.words] == [0, 0.5, 0, 0, 0.5]  # no stage joins them: they count alike


def test_words_joined_without_weights_count_alike():
    trace = trace_map(method(Silent(), Joining(), Emptying()), made_maps())
    assert [one.weight for one in trace.words] == [0, 0.5, 0.5, 0, 0]


def test_equal_words_are_told_apart():
    again = replace(WORDS[0], span=(18, 21), positions=(85,))
    trace = trace_map(method(Silent(keep=(2, 4))), made_maps(words=(*WORDS[:4], again)))
    assert [one.dropped is None for one in trace.words] == [False, False, True, False, True]


def test_what_a_stage_moved_is_half_of_the_differences_of_shares():
    left, right = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    left[:, :2], right[:, 2:] = 0.5, 1
    even = np.ones((2, 4), np.float32)
    assert moved_share(left, 2 * left) == pytest.approx(0)
    assert moved_share(left, right) == pytest.approx(1)
    assert moved_share(left, even) == pytest.approx(0.5)
    assert moved_share(np.zeros_like(left), left) == pytest.approx(0.5)  # nothing stands out: even
    assert moved_share(np.zeros_like(left), np.zeros_like(left)) == 0


def test_a_method_without_stages_has_the_recorded_map_alone():
    trace = trace_map(method(), one_row(np.eye(3)))
    assert trace.stages == ()
    assert trace.recorded.values.tolist() == trace.map.values.tolist() == np.eye(3).tolist()
    assert [(one.word, one.weight, one.dropped) for one in trace.words] == [(LAST, 1, None)]
