"""Fitted weights say with what they were fitted, and hold for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grounding.candidates.fitted import FittedWith
from grounding.candidates.rule import CandidateRule, Weights
from grounding.methods import load_method, parse_method

FITTED = CandidateRule(
    "boxes",
    Weights(agreement=1.0, size=0.5),
    weights_fitted_on="made",
    weights_fitted_with=FittedWith("m", "s", "boxes"),
    place=6.0,
    margin=4.0,
    peaks=2,
)


def test_weights_hold_for_what_they_were_fitted_with():
    assert FITTED.holding_for("m", "s") is FITTED
    assert FITTED.why_default("m", "s") is None
    assert replace(FITTED, kind="points").why_default("x", "y") is None, "points are not chosen by weights"
    by_hand = replace(FITTED, weights_fitted_with=None)
    assert by_hand.holding_for("x", "y") is by_hand


@pytest.mark.parametrize(("model", "segmenter", "kind"), [("x", "s", "boxes"), ("m", "x", "boxes"), ("m", "s", "auto")])
def test_elsewhere_weights_place_and_margin_are_the_defaults_and_all_else_stays(model, segmenter, kind):
    found = replace(FITTED, kind=kind).holding_for(model, segmenter)
    assert found == CandidateRule(kind, peaks=2)
    said = replace(FITTED, kind=kind).why_default(model, segmenter)
    assert said is not None
    assert (
        f"fitted with m, s and --candidates boxes, and {model}, {segmenter} and --candidates {kind} were used" in said
    )


def test_a_method_file_carries_what_weights_were_fitted_with():
    method = replace(load_method("plain-mean"), candidates=FITTED)
    assert parse_method(method.to_yaml(), "plain-mean", "here") == method


def test_the_photo_starter_ships_weights_for_boxes_and_mobile_sam_alone():
    rule = replace(load_method("starter-photo").candidates, kind="boxes")
    assert rule.weights != Weights()
    assert rule.holding_for("starter-photo", "mobile-sam") is rule
    others = (
        rule.holding_for("starter-photo", "facebook/sam2.1-hiera-large"),
        rule.holding_for("starter", "mobile-sam"),
        replace(rule, kind="auto").holding_for("starter-photo", "mobile-sam"),
    )
    default = CandidateRule()
    for other in others:
        assert (other.weights, other.place, other.margin) == (default.weights, default.place, default.margin)
