"""Folds over pictures, the chosen ridge, and a calibration measured on pictures left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evals.choice.calibrate import Calibrator, refitted
from evals.choice.fitting import choose_strength, fit_weights
from evals.choice.folds import cross_validated, folds
from evals.choice.judged import Judged
from grounding.candidates.base import Candidate, RankedCandidate, box_prompt
from grounding.candidates.choose import rank
from grounding.candidates.confidence import signals_of
from grounding.candidates.features import FEATURES
from grounding.candidates.fitted import FittedWith
from grounding.candidates.rule import CandidateRule, Weights
from grounding.errors import EvalDataError
from grounding.methods import load_method
from grounding.run_lengths import overlaps, pack
from grounding.types import Heatmap

SIZE = (40, 20)  # (width, height)


def square(left: int, width: int):
    mask = np.zeros(SIZE[::-1], bool)
    mask[5:15, left : left + width] = True
    return pack(mask)


def asked(picture: int, rng: np.random.Generator) -> Judged:
    """The map is on the left; the true mask is there and the larger of two, which the estimate does not say."""
    values = np.full((4, 8), 0.1, np.float32)
    values[1:3, :3] = 1
    heatmap = Heatmap(values, SIZE)
    masks = [square(0, 14), square(0, int(rng.integers(3, 7))), square(int(rng.integers(20, 26)), 10)]
    found = [Candidate(mask, float(rng.uniform(0.5, 0.9)), box_prompt((0, 0, 1, 1)), "made") for mask in masks]
    ranking = rank(found, heatmap, CandidateRule(weights=Weights(agreement=0.0)))
    ious = overlaps([masks[0], *[one.candidate.packed for one in ranking]])[0, 1:]
    return Judged(picture, "cup", masks[0], heatmap, ranking, ious, float(ious[0]), None, signals_of(ranking, heatmap))


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(3)
    return [asked(picture, rng) for picture in range(12) for _ in range(2)]


def test_a_picture_is_in_one_fold_and_never_on_both_sides(answers):
    parts = folds(answers, 5)
    assert len(parts) == 5
    assert sum(len(own) for _, own in parts) == len(answers)
    for others, own in parts:
        assert not {one.picture for one in others} & {one.picture for one in own}
        assert len(others) + len(own) == len(answers)
        assert len({one.picture for one in own}) in (2, 3)
    shuffled = {frozenset(one.picture for one in own) for _, own in folds(answers[::-1], 5)}
    assert shuffled == {frozenset(one.picture for one in own) for _, own in parts}


def test_one_picture_cannot_be_split(answers):
    assert folds(answers[:2]) == []
    assert len(folds(answers[:4])) == 2


def test_every_answer_is_by_a_method_that_did_not_see_its_picture(answers):
    def fit(others):
        pictures = " ".join(str(number) for number in sorted({one.picture for one in others}))
        return replace(load_method("plain-mean"), description=pictures)

    def apply(own, method):
        seen = set(map(int, method.description.split()))
        assert seen
        assert not seen & {one.picture for one in own}
        assert seen | {one.picture for one in own} == set(range(12))
        return list(own)

    found = cross_validated(answers, fit, apply)
    assert sorted(map(id, found)) == sorted(map(id, answers))  # each question once


def test_the_ridge_is_weak_where_the_pictures_agree_and_strong_where_there_is_nothing_to_learn(answers):
    start = Weights(agreement=0.0, estimate=5.0)
    strength = choose_strength(answers, start, (0.001, 1e6))
    assert strength == 0.001
    rng = np.random.default_rng(0)
    noise = [replace(one, ious=rng.permutation(np.array([0.9, 0.1, 0.1], np.float32))) for one in answers]
    for one in noise:  # whatever leads is right: the start cannot be improved on
        one.ious[:] = np.where(np.arange(3) == np.argmax(one.features @ start.array()), 0.9, 0.1)
    assert choose_strength(noise, start, (0.001, 1e6)) == 1e6
    assert choose_strength(answers[:1], start, (0.1, 1.0)) == 1.0


def absent(one: Judged) -> Judged:
    """The same picture asked for what is not there: the map is flat."""
    heatmap = Heatmap(np.full((4, 8), 0.5, np.float32), SIZE)
    ranking = rank([other.candidate for other in one.ranking], heatmap, CandidateRule())
    signals = signals_of(ranking, heatmap)
    return Judged(one.picture, "dog", None, heatmap, ranking, np.zeros(3, np.float32), 0.0, None, signals)


def calibrator(weights: bool) -> Calibrator:
    method = replace(load_method("plain-mean"), candidates=CandidateRule("boxes", Weights(0.0, estimate=5.0)))
    return Calibrator(method, "m", "s", "24 answers", weights, list)


def test_calibrated_weights_choose_better_on_pictures_left_out(answers):
    everything = [*answers, *map(absent, answers[::2])]
    found = calibrator(True)(everything)
    assert found.method.candidates.weights_fitted_on == found.method.confidence.fitted_on == "24 answers"
    assert found.method.confidence.holds_for("m", "s", "boxes")
    assert found.method.candidates.weights_fitted_with == FittedWith("m", "s", "boxes")
    assert len(found.unseen) == len(found.answers) == len(everything)
    there = [one for one in found.unseen if one.present]
    assert np.mean([one.iou for one in there]) > 0.9 > np.mean([one.iou for one in answers])
    sure = {flag: [one.confidence for one in found.unseen if one.present is flag] for flag in (True, False)}
    assert min(sure[True]) > max(sure[False])


def test_spatial_words_keep_their_influence_under_weights_of_another_scale(answers):
    rule = CandidateRule(weights=Weights(agreement=1.0, estimate=2.0), place=2.0, margin=1.5)
    fitted_with = FittedWith("m", "s", "boxes")
    found = refitted(rule, Weights(agreement=3.0, estimate=6.0), answers, "made", fitted_with)
    assert (found.place, found.margin, found.weights_fitted_on) == (6.0, 4.5, "made")
    assert found.weights_fitted_with == fitted_with
    same = refitted(replace(rule, weights=Weights(0.0, estimate=0.0)), Weights(), answers, "made", fitted_with)
    assert (same.place, same.margin) == (2.0, 1.5)  # nothing to compare with


@pytest.mark.parametrize(("model", "start"), [("m", Weights(agreement=-40.0)), ("another", Weights())])
def test_a_fit_starts_from_weights_that_hold(answers, model, start, monkeypatch):
    started = []
    monkeypatch.setattr(
        "evals.choice.calibrate.fit_weights", lambda answers, start, strength: started.append(start) or Weights()
    )
    rule = CandidateRule(
        "boxes", Weights(agreement=-40.0), weights_fitted_with=FittedWith(model, "s", "boxes"), place=50.0
    )
    chosen = replace(calibrator(True), start=replace(load_method("plain-mean"), candidates=rule))
    found = chosen.fit([*answers, *map(absent, answers[::2])])
    assert started == [start]
    assert (found.candidates.place == CandidateRule().place) is (model == "another")


def test_without_weights_the_choice_stays(answers):
    found = calibrator(False)([*answers, absent(answers[0])])
    assert found.method.candidates == calibrator(False).start.candidates
    assert [one.iou for one in found.answers[:-1]] == [one.iou for one in answers]


def test_too_few_pictures_give_a_fit_without_a_measure(answers):
    pair = [replace(answers[0], iou=1.0), replace(answers[0], iou=0.0)]
    assert calibrator(False)(pair).unseen is None
    with pytest.raises(EvalDataError, match="right and wrong"):
        calibrator(False)(pair[:1])


def test_features_of_a_ranking_are_those_it_was_ranked_by(answers):
    one = answers[0]
    assert isinstance(one.ranking[0], RankedCandidate)
    assert one.features.shape == (3, len(FEATURES))
    weights = fit_weights([one], Weights(), strength=1e9)
    assert weights == Weights()
