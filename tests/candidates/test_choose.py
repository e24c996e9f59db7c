"""Ranking by the map, and by the spatial words of an expression."""

from __future__ import annotations

import numpy as np
import pytest
from made_candidates import candidate, map_on, rectangle

from grounding.candidates.choose import rank
from grounding.candidates.places import places, things
from grounding.candidates.rule import CandidateRule, Weights
from grounding.errors import MethodError
from grounding.text.order import LAST, Order, order_of
from grounding.text.parse import parse
from grounding.types import Heatmap

LEFT, MIDDLE, RIGHT = (0, 10, 10, 20), (25, 10, 35, 20), (45, 10, 60, 25)
THREE = [candidate(*LEFT), candidate(*MIDDLE), candidate(*RIGHT)]


def test_the_mask_on_the_map_is_first_and_says_why():
    ranked = rank(THREE, map_on(*MIDDLE), CandidateRule())
    assert ranked[0].candidate == THREE[1]
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert "agreement" in ranked[0].why
    assert ranked[0].place is None


def test_the_score_is_the_weighted_sum_of_the_features():
    weights = Weights(agreement=0.0, estimate=0.0, size=-1.5, fill=2.0)
    for one in rank(THREE, map_on(*LEFT), CandidateRule(weights=weights)):
        assert one.score == pytest.approx(2.0 * one.features["fill"] - 1.5 * one.features["size"], abs=1e-5)


def test_among_equals_the_higher_estimate_is_first():
    pair = [candidate(*LEFT, score=0.5), candidate(*RIGHT[:2], 55, 20, score=0.8)]
    even = Heatmap(np.ones((8, 12), np.float32), (60, 40))
    nothing = CandidateRule(weights=Weights(agreement=0.0, estimate=0.0))
    assert rank(pair, even, nothing)[0].candidate.score == 0.8


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the cup on the left", 0),
        ("the rightmost cup", 2),
        ("the middle cup", 1),
        ("the second cup from the right", 1),
        ("the first cup", 0),
        ("the last cup from the left", 2),
        ("the larger cup", 2),
        ("the second largest cup", 0),
        ("the smallest cup on the left", 0),
    ],
)
def test_spatial_words_decide_among_things_that_fit_alike(expression, expected):
    everywhere = np.full((8, 12), 0.1, np.float32)
    for x0, y0, x1, y1 in (LEFT, MIDDLE, RIGHT):
        everywhere[y0 // 5 : y1 // 5, x0 // 5 : x1 // 5] = 1
    rule = CandidateRule(weights=Weights(agreement=1.0, estimate=0.0), place=2.0)
    ranked = rank(THREE, Heatmap(everywhere, (60, 40)), rule, order_of(parse(expression)))
    assert ranked[0].candidate == THREE[expected]
    assert ranked[0].place == 1
    assert "fits" in ranked[0].why


def test_what_is_counted_to_and_not_there_is_nowhere():
    scores = np.zeros(3, np.float32)
    masks = [one.packed for one in THREE]
    assert places(Order(ordinal=4, counted_from="left"), masks, scores, 1.0).tolist() == [0, 0, 0]
    assert places(Order(ordinal=LAST, counted_from="left"), masks, scores, 1.0).tolist() == [0, 0, 1]


def test_a_part_of_a_thing_has_the_place_of_the_thing():
    masks = [rectangle(*LEFT), rectangle(0, 10, 5, 15), rectangle(*RIGHT)]
    scores = np.array([1.0, 0.5, 0.9], np.float32)
    assert things(masks, scores, 1.0).tolist() == [0, 2]
    assert places(Order(("left",)), masks, scores, 1.0).tolist() == [1, 1, 0]


def test_what_scores_far_lower_does_not_compete():
    masks, scores = [one.packed for one in THREE], np.array([0.0, 2.0, 1.5], np.float32)
    assert things(masks, scores, 1.0).tolist() == [1, 2]
    assert places(Order(("left",)), masks, scores, 1.0).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "wrong", [{"kind": "magic"}, {"doubles": 2.0}, {"peaks": -1}, {"shown": 0}, {"boxes": (0.0,)}, {"margin": -1.0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(MethodError, match="candidates"):
        CandidateRule(**wrong)
