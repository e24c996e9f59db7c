"""What an explanation says of candidates, and its JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_maps import made_maps

from grounding.explanation import Explanation, rule_in_words, trace_candidates
from grounding.io import decode_mask
from grounding.map_trace import trace_map
from grounding.methods import load_method
from grounding.segmenters.mask_selection import MaskRule
from grounding.types import Heatmap

pytest.importorskip("torch")
from grounding.segmenters.base import MaskCandidates


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
