"""What an explanation says of words, stages and candidates."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_maps import LAST, WORDS, made_maps, one_row, with_background

from grounding.explanation import Dropping, moved_share, rule_in_words, trace_candidates, trace_map
from grounding.io import decode_mask
from grounding.maps.base import Stage
from grounding.maps.word_statistics import image_shares, spatial_variations
from grounding.methods import load_method, method_names, parse_method, run_stages
from grounding.segmenters.mask_selection import MaskRule
from grounding.types import AttentionMaps, Heatmap, StageReport, Word, WordKind

pytest.importorskip("torch")
from grounding.segmenters.base import MaskCandidates


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
        return replace(maps, values=maps.values[:, :, :, self.keep], words=kept), StageReport(self.name, 0.0, "")


@dataclass(frozen=True)
class Joining(Stage):
    """Joins words without saying how much each counts."""

    name: ClassVar[str] = "joining"

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        joined = replace(
            maps, values=maps.values.max(3, keepdims=True), words=(Word("all", (0, 0), (), WordKind.SPECIAL),)
        )
        return joined, StageReport(self.name, 0.0, "the largest")


@pytest.mark.parametrize("name", method_names())
def test_tracing_changes_nothing_and_keeps_a_map_for_every_stage(name):
    loaded = load_method(name)
    if name == "starter-photo":
        pytest.skip("its heads are those of its own model")
    maps = made_maps(layers=tuple(range(4)))
    maps = with_background(maps) if loaded.background_prompt else maps
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


def candidates() -> tuple[MaskCandidates, Heatmap]:
    masks = np.zeros((4, 20, 30), bool)
    masks[0, :10, :10] = masks[1, :10, :5] = masks[2] = True
    values = np.zeros((2, 3), np.float32)
    values[0, 0] = 1
    return MaskCandidates(masks, np.array([0.5, 0.9, 0.9, 0.8], np.float32), np.zeros((4, 4, 4), np.float32)), Heatmap(
        values, (30, 20)
    )


@pytest.mark.parametrize(("choice", "best"), [("iou", 1), ("agreement", 0), ("both", 1)])
def test_candidates_say_their_scores_and_one_is_chosen(choice, best):
    found = trace_candidates(*candidates(), MaskRule(choice))
    assert [one.chosen for one in found] == [index == best for index in range(4)]
    assert found[best].score == max(one.score for one in found)
    assert found[0].agreement == pytest.approx(1)
    assert f"{found[best].score:.2f}" in found[best].why
    assert "100% of the image" in found[2].why
    assert found[3].why == "the mask is empty"


def test_rules_are_told_in_words():
    assert "estimate × the agreement" in rule_in_words(MaskRule())
    told = rule_in_words(MaskRule("agreement", "soft_iou", cascade=True, specks=0.02))
    assert "last of three calls" in told
    assert "soft_iou" in told
    assert "2%" in told


def test_the_json_is_plain_and_rebuilds_masks_and_maps():
    from grounding.explanation import Explanation

    chosen = load_method("diffusion")
    trace = trace_map(chosen, made_maps())
    found, heatmap = candidates()
    shown = Explanation(
        "the red star left", "made", chosen.name, trace, chosen.points(trace.map), rule_in_words(chosen.mask),
        trace_candidates(found, heatmap, chosen.mask),
    )  # fmt: skip
    data = json.loads(json.dumps(shown.to_json()))
    assert [one["word"] for one in data["words"]] == ["the", "red", "star", "left", "<last>"]
    assert data["words"][0]["dropped"] == {"stage": "stop-words", "why": "stop word"}
    assert sum(one["share"] for one in data["words"]) == pytest.approx(1, abs=1e-4)
    assert [one["stage"] for one in data["stages"]] == [stage.name for stage in chosen.stages]
    np.testing.assert_allclose(data["stages"][-1]["map"], trace.stages[-1].map.values, atol=1e-4)
    np.testing.assert_array_equal(decode_mask(data["candidates"][1]["segmentation"]), found.masks[1])
    assert [one["chosen"] for one in data["candidates"]].count(True) == 1
    assert shown.chosen.mask.sum() == data["candidates"][1]["area"]
    assert trace_map(method(), one_row(np.eye(3))).words[0].word == LAST
