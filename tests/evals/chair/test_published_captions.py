"""The published captions of OPERA give the published figures; needs data that is not part of the project."""

from __future__ import annotations

import pytest
from chair_files import PUBLISHED

from evals.chair.curve import curve_point
from evals.chair.resources import load_chair_resources
from evals.chair.score import chair, ratios, read_captions
from grounding.errors import GroundingError

pytestmark = pytest.mark.skipif(
    not (PUBLISHED / "chair_synonyms.txt").is_file(), reason=f"no published captions in {PUBLISHED}"
)


def scores_of(run, pipeline="rules"):
    resources = load_chair_resources(
        str(PUBLISHED / "coco_chair_objects.json"), str(PUBLISHED / "chair_synonyms.txt"), pipeline
    )
    file = PUBLISHED / "captions" / f"opera-llava-1.5-{run}.jsonl"
    return resources, resources.score(read_captions(file), file)


def test_opera_as_published_44_6_and_12_8():
    _, scores = scores_of("ours")
    found = chair(scores)
    assert found.n == 500
    assert round(100 * found.chair_s.value, 1) == 44.6
    assert round(100 * found.chair_i.value, 1) == 12.8


@pytest.mark.parametrize(("run", "chair_s", "chair_i"), [("greedy", 44.8, None), ("beam5", 48.8, 13.95)])
def test_recounts_of_the_runs_beside_it(run, chair_s, chair_i):
    _, scores = scores_of(run)
    found = ratios(scores)
    assert round(100 * found["chair_s"].value, 1) == chair_s
    if chair_i is not None:
        assert 100 * found["chair_i"].value == pytest.approx(chair_i, abs=0.06)


def test_with_nltk_the_figures_stay_within_half_a_point():
    try:
        _, scores = scores_of("ours", "nltk")
    except GroundingError as missing:
        pytest.skip(str(missing))
    found = ratios(scores)
    assert 100 * found["chair_s"].value == pytest.approx(44.6, abs=0.5)
    assert 100 * found["chair_i"].value == pytest.approx(12.8, abs=0.5)


def test_cutting_the_greedy_captions_buys_what_methods_claim():
    resources, scores = scores_of("greedy")
    short, whole = (curve_point(scores, length, resources.lexicon) for length in (50, 10_000))
    assert short.chair_s < 0.5 * whole.chair_s
    assert short.recall > 0.7 * whole.recall
