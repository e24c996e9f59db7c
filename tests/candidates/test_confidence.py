from __future__ import annotations

import numpy as np
import pytest
from made_candidates import candidate, map_on

from grounding.candidates.choose import rank
from grounding.candidates.confidence import OF_MASK, SIGNALS, Confidence, Signals, signals_of
from grounding.candidates.features import FEATURES
from grounding.candidates.rule import CandidateRule
from grounding.methods import load_method, parse_method


def confidence(**weights) -> Confidence:
    return Confidence("m", "s", "boxes", -1.0, Signals(**weights))


def test_it_is_the_logistic_function_of_the_weighted_signals():
    fitted = confidence(agreement=2.0, size=-0.5)
    assert fitted(Signals(agreement=0.75, size=-1.0)) == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert fitted(Signals(agreement=1e9)) == pytest.approx(1)


def test_it_holds_for_what_it_was_fitted_with_alone():
    assert confidence().holds_for("m", "s", "boxes")
    assert not any(
        confidence().holds_for(*other) for other in (("x", "s", "boxes"), ("m", "x", "boxes"), ("m", "s", "auto"))
    )


def test_the_lead_is_over_another_thing_and_not_over_a_part_of_the_same():
    heatmap = map_on(10, 10, 30, 30)
    whole, part, other = candidate(10, 10, 30, 30), candidate(10, 10, 30, 25), candidate(40, 10, 60, 30)
    alone = signals_of(rank([whole, part], heatmap, CandidateRule()), heatmap)
    assert alone.agreement == alone.lead == pytest.approx(1, abs=1e-5)
    with_other = rank([whole, part, other], heatmap, CandidateRule())
    found = signals_of(with_other, heatmap)
    rival = next(one for one in with_other if one.candidate == other)
    assert found.lead == pytest.approx(1 - rival.features["agreement"], abs=1e-5)
    assert found.lead > 1  # the other thing lies where the map is low


def test_sharpness_and_background_are_of_the_map():
    found = signals_of(
        rank([candidate(10, 10, 30, 30)], map_on(10, 10, 30, 30), CandidateRule()), map_on(10, 10, 30, 30)
    )
    assert found.sharpness == pytest.approx(1 - 16 / 96)
    assert found.background == pytest.approx(0.1)
    assert found.array().shape == (len(SIGNALS),)


def test_signals_of_the_mask_are_its_features():
    ranked = rank([candidate(10, 10, 30, 30), candidate(0, 0, 60, 30)], map_on(10, 10, 30, 30), CandidateRule())
    found = signals_of(ranked, map_on(10, 10, 30, 30))
    assert set(OF_MASK) == set(SIGNALS) & set(FEATURES) >= {"stability", "held", "edge"}
    assert {name: getattr(found, name) for name in OF_MASK} == {name: ranked[0].features[name] for name in OF_MASK}
    assert (found.held, found.holds, found.stability) == (1, 0, 1)


def test_a_method_file_carries_it():
    method = load_method("plain-mean")
    text = method.to_yaml()
    assert parse_method(text, "plain-mean", "here").confidence is None
    filled = text.replace(
        "confidence: null",
        "confidence: {model: m, segmenter: s, candidates: boxes, intercept: -1.0, weights: {agreement: 2.0}}",
    )
    read = parse_method(filled, "plain-mean", "here")
    assert read.confidence == confidence(agreement=2.0)
    assert parse_method(read.to_yaml(), "plain-mean", "here") == read


def test_the_photo_starter_ships_one_for_boxes():
    fitted = load_method("starter-photo").confidence
    assert fitted.holds_for("starter-photo", "mobile-sam", "boxes")
    assert not fitted.asks
    good = Signals(
        agreement=0.7,
        soft_iou=0.5,
        estimate=1.0,
        stability=0.95,
        holds=0.5,
        size=-2.0,
        fill=0.8,
        connected=1.0,
        lead=0.6,
    )
    poor = Signals(
        agreement=0.1, soft_iou=0.1, estimate=0.8, stability=0.7, held=0.5, size=-2.0, fill=0.3, connected=0.5,
        border=0.5, edge=0.3, background=0.2,
    )  # fmt: skip
    assert fitted(good) > 0.5 > 0.1 > fitted(poor)
