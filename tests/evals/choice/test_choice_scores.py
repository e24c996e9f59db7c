"""AUROC, reliability and fits against plain counts and known truths."""

from __future__ import annotations

import numpy as np
import pytest

from evals.choice.fitting import fit_confidence, fit_weights
from evals.choice.judged import Judged, ranked_again, with_confidence
from evals.choice.scores import auroc, auroc_interval, calibration_error, kind_scores, reliability
from grounding.candidates.base import Candidate, RankedCandidate, box_prompt
from grounding.candidates.choose import rank
from grounding.candidates.confidence import Signals
from grounding.candidates.features import FEATURES
from grounding.candidates.rule import CandidateRule, Weights
from grounding.errors import EvalDataError
from grounding.methods import load_method
from grounding.run_lengths import PackedMask, pack
from grounding.types import Heatmap

RNG = np.random.default_rng(0)


def square(left: int, width: int = 10) -> PackedMask:
    mask = np.zeros((20, 40), bool)
    mask[5:15, left : left + width] = True
    return pack(mask)


def judged(iou=0.0, confidence=None, signals=None, present=True, ranking=(), ious=(), picture=0) -> Judged:
    truth = square(0) if present else None
    return Judged(picture, "the cup", truth, None, tuple(ranking), np.array(ious, np.float32), iou, confidence, signals)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    scores, right = RNG.integers(0, 6, 40) / 5, RNG.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs))
    assert auroc([0.1, 0.2], [True, False]) == 0
    assert np.isnan(auroc([0.1, 0.2], [True, True]))


def test_the_interval_holds_the_value_and_resamples_pictures():
    scores, right = RNG.random(60), RNG.random(60) < 0.5
    found = auroc_interval(scores.tolist(), right.tolist(), list(range(60)))
    assert found.low < found.value < found.high
    one = auroc_interval(scores.tolist(), right.tolist(), [0] * 60)
    assert one.low == one.high == one.value


def test_reliability_counts_by_steps_of_confidence():
    bins = reliability([0.05, 0.15, 0.9, 1.0, 0.95], [False, True, True, True, False])
    assert [(one.low, one.n) for one in bins] == [(0.0, 2), (0.8, 3)]
    assert bins[0].right == 0.5
    assert bins[1].confidence == pytest.approx(0.95)
    assert calibration_error(bins) == pytest.approx((2 * 0.4 + 3 * abs(0.95 - 2 / 3)) / 5)


def test_a_fitted_confidence_finds_the_odds_that_made_the_answers():
    answers = []
    for _ in range(4000):
        signals = Signals(agreement=float(RNG.normal()), size=float(RNG.normal(3, 2)))
        odds = 0.5 + 1.5 * signals.agreement - 0.4 * signals.size
        answers.append(judged(float(RNG.random() < 1 / (1 + np.exp(-odds))), signals=signals))
    fitted = fit_confidence(answers, "m", "s", "boxes", "made", strength=1.0)
    assert fitted.weights.agreement == pytest.approx(1.5, abs=0.15)
    assert fitted.weights.size == pytest.approx(-0.4, abs=0.06)
    assert fitted.weights.lead == 0
    strict = fit_confidence(answers, "m", "s", "boxes", "made", strength=1e5)
    assert 0 < strict.weights.agreement < 0.1
    assert fitted.holds_for("m", "s", "boxes")


def test_a_signal_that_should_raise_a_confidence_never_lowers_it():
    answers = [
        judged(float(index % 2), signals=Signals(lead=-float(index % 2), size=-float(index % 2))) for index in range(40)
    ]
    fitted = fit_confidence(answers, "m", "s", "boxes", "made")
    assert fitted.weights.lead == 0
    assert fitted.weights.size < 0


@pytest.mark.parametrize("name", ["held", "border", "edge", "background"])
def test_a_signal_that_should_lower_a_confidence_never_raises_it(name):
    answers = [judged(float(index % 2), signals=Signals(**{name: float(index % 2)})) for index in range(40)]
    assert getattr(fit_confidence(answers, "m", "s", "boxes", "made").weights, name) == 0
    answers = [judged(float(index % 2), signals=Signals(**{name: -float(index % 2)})) for index in range(40)]
    assert getattr(fit_confidence(answers, "m", "s", "boxes", "made").weights, name) < 0


def test_what_is_not_there_counts_as_wrong():
    there = [judged(1.0, signals=Signals(agreement=1.0)) for _ in range(20)]
    absent = [judged(1.0, signals=Signals(agreement=0.0), present=False) for _ in range(20)]
    fitted = fit_confidence(there + absent, "m", "s", "boxes", "made")
    assert fitted(Signals(agreement=1.0)) > 0.7 > 0.3 > fitted(Signals(agreement=0.0))


def test_answers_of_one_kind_are_too_few_for_a_fit():
    with pytest.raises(EvalDataError, match="right and wrong"):
        fit_confidence([judged(1.0, signals=Signals())], "m", "s", "boxes", "made")
    with pytest.raises(EvalDataError, match="candidates"):
        fit_weights([judged(1.0)], Weights(), 0.1)


def ranked(values: dict[str, float], mask: PackedMask) -> RankedCandidate:
    features = dict.fromkeys(FEATURES, 0.0) | values
    return RankedCandidate(Candidate(mask, 0.5, box_prompt((0, 0, 1, 1)), "made"), features, None, 0.0, "made")


def test_fitted_weights_prefer_what_goes_with_a_good_mask():
    answers = []
    for _ in range(200):
        good = RNG.random(4)
        ranking = [ranked({"soft_iou": float(g), "fill": float(RNG.random())}, square(0)) for g in good]
        answers.append(judged(ranking=ranking, ious=good**2))
    weights = fit_weights(answers, Weights(agreement=1.5), strength=0.01)
    assert weights.soft_iou > 5 * abs(weights.fill)
    assert weights.agreement == 1.5  # never differs, so nothing is learnt about it
    strict = fit_weights(answers, Weights(agreement=1.5, soft_iou=-1.0), strength=1e6)
    assert strict.soft_iou == pytest.approx(-1.0, abs=1e-3)


def test_ranking_again_judges_the_first_of_the_new_order():
    values = np.zeros((4, 8), np.float32)
    values[1:3, :2] = 1
    heatmap = Heatmap(values, (40, 20))
    candidates = [ranked({}, mask).candidate for mask in (square(20), square(0))]
    backwards = rank(candidates, heatmap, CandidateRule(weights=Weights(agreement=-1.0)))
    one = Judged(0, "the cup", square(0), heatmap, backwards, np.zeros(2, np.float32), 0.0, None, None)
    method = load_method("plain-mean")
    (again,) = ranked_again([one], method)
    assert again.iou == 1
    assert again.ious.tolist() == [1, 0]
    assert again.signals.agreement > 0.5


def test_scores_of_a_kind_compare_with_points_and_report_the_confidence():
    rows = [(0.9, 0.8), (0.2, 0.3), (0.7, 0.9), (0.1, 0.1), (0.6, 0.4), (0.0, 0.6)]
    answers = [judged(iou, confidence, Signals(), picture=index) for index, (iou, confidence) in enumerate(rows)]
    points = [judged(iou / 2, picture=index) for index, (iou, _) in enumerate(rows)]
    absent = [judged(0.0, 0.05, Signals(), present=False, picture=9)]
    found = kind_scores(answers + absent, points + absent)
    assert (found["n"], found["absent"]) == (6, 1)
    assert found["miou"][0] == pytest.approx(2.5 / 6, abs=1e-4)
    assert found["minus_points"][0] == pytest.approx(1.25 / 6, abs=1e-4)
    assert found["right"][0] == 0.5
    assert found["auroc"]["confidence"]["present"][0] == pytest.approx(8 / 9, abs=1e-4)
    assert found["auroc"]["confidence"]["all"][0] == pytest.approx(11 / 12, abs=1e-4)
    assert found["auroc"]["estimate"]["all"] is None
    assert sum(one["n"] for one in found["reliability"]) == 7


def test_a_confidence_is_put_on_answers():
    method = load_method("plain-mean")
    fitted = fit_confidence(
        [judged(float(index % 2), signals=Signals(agreement=float(index % 2))) for index in range(10)],
        "m", "s", "boxes", "made",
    )  # fmt: skip
    from dataclasses import replace

    answers = with_confidence([judged(signals=Signals(agreement=1.0)), judged()], replace(method, confidence=fitted))
    assert answers[0].confidence == pytest.approx(fitted(Signals(agreement=1.0)))
    assert answers[1].confidence is None
    assert CandidateRule().weights == Weights()
