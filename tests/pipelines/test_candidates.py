"""`candidates` of every kind, "none", and verification, from the model to the files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_sam import tiny_sam3

from grounding.candidates.confidence import Confidence, Signals
from grounding.candidates.fitted import FittedWith
from grounding.candidates.rule import KINDS, CandidateRule, Weights
from grounding.candidates.verification import Verification
from grounding.cli import main
from grounding.errors import MethodError, ModelError, SegmenterError
from grounding.methods import load_method
from grounding.segmenters.automatic import AutomaticMasks
from pipelines.choosing import with_candidates
from pipelines.referring import ReferringSegmentation

GRID = AutomaticMasks(side=3, least_estimate=0.0, least_stability=0.0)


@pytest.fixture(scope="module")
def sam3_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-sam3")
    for part in tiny_sam3():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def method(sam3_folder):
    rule = CandidateRule(grid=GRID, concepts=str(sam3_folder), least_concept=0.0)
    return replace(load_method("plain-mean"), candidates=rule)


@pytest.fixture
def method_file(method, tmp_path):
    file = tmp_path / "method.yaml"
    file.write_text(method.to_yaml())
    return file


@pytest.fixture
def pipe_of(tiny_model, tiny_segmenter, method_file):
    def make(kind, **options):
        names = (str(tiny_model), str(tiny_segmenter), str(method_file), "cpu")
        return ReferringSegmentation.from_pretrained(*names, candidates=kind, **options)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ranks_candidates_and_takes_the_first(pipe_of, pictures, kind):
    result = pipe_of(kind, explain=True)(pictures / "a.png", "the red dog")
    (segment,) = result.segments
    best = result.ranking[0]
    assert segment.mask.shape == (90, 130)
    assert segment.score == pytest.approx(best.candidate.score)
    assert (best.candidate.mask != segment.mask).mean() < 0.05  # specks
    scores = [one.score for one in result.ranking]
    assert scores[0] == max(scores)
    assert 1 <= len(result.ranking) <= 5
    assert all(one.why for one in result.ranking)
    shown = result.explanation
    assert shown.chosen.mask.shape == segment.mask.shape
    assert json.loads(json.dumps(shown.to_json()))["candidates"][0]["origin"]
    assert result.confidence is None


def test_points_are_todays_way(make_pipe, pipe_of, pictures):
    plain = make_pipe("plain-mean")(pictures / "a.png", "the red dog")
    found = pipe_of("points")(pictures / "a.png", "the red dog")
    np.testing.assert_array_equal(plain.segments[0].mask, found.segments[0].mask)


def test_boxes_are_several_prompts_of_different_kinds(loaded, method, pictures):
    asked = []
    source, segmenter = loaded

    class Watched:
        name = segmenter.name
        set_image = segmenter.set_image

        def predict(self, prompts, **options):
            asked.append(prompts)
            return segmenter.predict(prompts, **options)

    pipe = ReferringSegmentation(source, Watched(), with_candidates(method, "boxes"))
    result = pipe(pictures / "a.png", "the red dog")
    assert any(one.box_xyxy is not None and not len(one.xy) for one in asked)
    assert any(one.box_xyxy is None and len(one.xy) == 1 for one in asked)
    assert asked[0] == result.points
    assert len({str((one.xy, one.box_xyxy)) for one in asked}) == len(asked) > 3  # none is asked twice


@pytest.mark.parametrize("kind", ["boxes", "auto"])
def test_candidates_say_how_little_they_depend_on_the_threshold(pipe_of, pictures, kind):
    ranking = pipe_of(kind)(pictures / "a.png", "the red dog").ranking
    shares = [one.candidate.stability for one in ranking]
    assert all(0 <= share < 1 for share in shares)
    assert [one.features["stability"] for one in ranking] == pytest.approx(shares, abs=1e-6)


def test_the_grid_is_decoded_once_for_all_words_of_a_picture(pipe_of, pictures, monkeypatch):
    calls = []
    pipe = pipe_of("auto")
    decode = pipe.segmenter.decode
    monkeypatch.setattr(
        pipe.segmenter, "decode", lambda prompts, **options: calls.append(1) or decode(prompts, **options)
    )
    pipe(pictures / "a.png", ["the red dog", "the dog"])
    first = len(calls)
    pipe(pictures / "a.png", "dog")
    assert len(calls) == first == 3  # nine points in batches of four
    pipe(pictures / "b.png", "dog")
    assert len(calls) == 2 * first


def test_sam3_is_asked_for_the_head_noun_and_without_it_the_error_says_what_to_do(pipe_of, loaded, method, pictures):
    result = pipe_of("sam3")(pictures / "a.png", "the red dog")
    assert {one.candidate.origin for one in result.ranking} == {"concept 'dog'"}
    with pytest.raises(SegmenterError, match="from_pretrained"):
        ReferringSegmentation(*loaded, with_candidates(method, "sam3"))(pictures / "a.png", "dog")


def test_nothing_found_is_none_with_a_note(loaded, method, pictures):
    strict = replace(method, candidates=CandidateRule("auto", grid=AutomaticMasks(side=2, whole_share=0.0)))
    result = ReferringSegmentation(*loaded, strict, explain=True)(pictures / "a.png", "dog")
    assert result.segments == ()
    assert "no candidate" in result.notes[-1]
    assert result.explanation.chosen is None


def fitted(loaded, intercept: float, kind: str = "boxes") -> Confidence:
    return Confidence(loaded[0].name, loaded[1].name, kind, intercept, Signals())


def test_below_the_bar_the_answer_is_none_and_keeps_its_ranking(loaded, method, pictures, tmp_path):
    method = replace(with_candidates(method, "boxes", 0.5), confidence=fitted(loaded, -1.0))
    result = ReferringSegmentation(*loaded, method, explain=True)(pictures / "a.png", "dog")
    assert result.confidence == pytest.approx(1 / (1 + np.e))
    assert result.segments == ()
    assert result.ranking
    assert "nothing fits" in result.notes[-1]
    assert all(file.is_file() for file in result.save(tmp_path, formats=("png", "mask", "cutout", "coco", "explain")))
    sure = ReferringSegmentation(*loaded, replace(method, confidence=fitted(loaded, 1.0)))(pictures / "a.png", "dog")
    assert sure.segments[0].confidence == sure.confidence == pytest.approx(np.e / (1 + np.e))


def test_the_models_own_answers_are_part_of_a_confidence_that_weighs_them(loaded, method, pictures, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "grounding.models.presence.yes_shares",
        lambda vlm, images, questions: asked.append((images, questions)) or [0.9, 0.2],
    )
    how = Verification("marked", question="is the {noun} there")
    weights = Signals(presence=2.0, crop=-1.0)
    method = replace(with_candidates(method, "boxes"), verification=how)
    pipe = ReferringSegmentation(*loaded, replace(method, confidence=replace(fitted(loaded, 0.0), weights=weights)))
    result = pipe(pictures / "a.png", "the red dog")
    assert result.confidence == pytest.approx(1 / (1 + np.exp(-1.6)))
    ((images, questions),) = asked  # one batch: the whole picture and the region's crop, whatever the view
    assert questions == ["is the dog there"] * 2
    assert images[0].size == (130, 90)
    assert images[1].size <= images[0].size
    ReferringSegmentation(*loaded, replace(method, confidence=fitted(loaded, 0.0)))(pictures / "a.png", "dog")
    assert len(asked) == 1  # not asked where nothing weighs it


def test_a_confidence_of_other_candidates_is_not_used(loaded, method, pictures):
    method = replace(with_candidates(method, "boxes", 0.9), confidence=fitted(loaded, -9.0, "points"))
    result = ReferringSegmentation(*loaded, method)(pictures / "a.png", "dog")
    assert result.confidence is None
    assert len(result.segments) == 1


@pytest.mark.parametrize(("bar", "shown"), [(0.0, 1), (1.0, 3)])
def test_a_region_is_shown_again_and_accepted_or_not(loaded, method, pictures, bar, shown):
    how = Verification(question="is the {noun} red", bar=bar)
    method = replace(with_candidates(method, "boxes", verify=True), verification=how)
    result = ReferringSegmentation(*loaded, method)(pictures / "a.png", "the red dog")
    assert len(result.verified) == shown
    assert all(0 <= share <= 1 for share in result.verified)
    assert len(result.segments) == (1 if bar == 0 else 0)
    assert bar == 0 or "accepts none" in result.notes[-1]


def test_a_later_candidate_that_is_accepted_is_taken(loaded, method, pictures, monkeypatch):
    shares = iter([0.1, 0.9])
    monkeypatch.setattr("grounding.models.presence.yes_shares", lambda *_: [next(shares)])
    plain = ReferringSegmentation(*loaded, with_candidates(method, "boxes"))(pictures / "a.png", "dog")
    method = with_candidates(method, "boxes", verify=True)
    result = ReferringSegmentation(*loaded, method)(pictures / "a.png", "dog")
    assert result.ranking[0] == plain.ranking[1]
    assert result.segments[0].score == plain.ranking[1].candidate.score


def test_a_source_without_answers_cannot_verify(loaded, method, pictures):
    class Silent:
        def __getattr__(self, name):
            return getattr(loaded[0], name)

    pipe = ReferringSegmentation(Silent(), loaded[1], with_candidates(method, "boxes", verify=True))
    with pytest.raises(ModelError, match="answers no questions"):
        pipe(pictures / "a.png", "dog")


def test_a_wrong_bar_is_refused(method):
    with pytest.raises(MethodError, match="least_confidence"):
        with_candidates(method, least_confidence=1.5)


def test_the_command_writes_the_ranking_and_the_kind_is_part_of_the_configuration(
    tiny_model, tiny_segmenter, method_file, pictures, tmp_path, capsys
):
    configs = set()
    for kind in ("points", "boxes"):
        words = [str(pictures / "a.png"), "the red dog", "--candidates", kind, "--out", str(tmp_path / kind), "--json"]
        models = ["--model", str(tiny_model), "--segmenter", str(tiny_segmenter), "--method", str(method_file)]
        assert main(["segment", *words, *models, "--device", "cpu"]) == 0
        line = json.loads(capsys.readouterr().out)
        configs.add(line["config"])
        assert line["confidence"] is None
        assert {"origin", "box_xyxy", "score", "why", "place"} <= line["ranking"][0].keys()
    assert len(configs) == 2


BY_SIZE = Weights(agreement=0.0, estimate=0.0, size=-3.0)


def weighed(method, kind: str, model: str, segmenter: str, candidates: str = "boxes"):
    """A method that takes the smallest mask, by weights fitted with a model, segmenter and kind of candidates."""
    fitted_with = FittedWith(model, segmenter, candidates)
    rule = replace(method.candidates, kind=kind, weights=BY_SIZE, weights_fitted_with=fitted_with, place=9.0)
    return replace(method, candidates=rule)


def test_fitted_weights_choose_with_what_they_were_fitted_with(loaded, method, pictures):
    free = replace(method, candidates=replace(method.candidates, kind="boxes", weights=BY_SIZE, place=9.0))
    expected = ReferringSegmentation(*loaded, free)(pictures / "a.png", "the left dog")
    same = weighed(method, "boxes", loaded[0].name, loaded[1].name)
    found = ReferringSegmentation(*loaded, same)(pictures / "a.png", "the left dog")
    assert [one.score for one in found.ranking] == [one.score for one in expected.ranking]
    assert not any("default weights" in note for note in found.notes)


@pytest.mark.parametrize("other", ["model", "segmenter", "candidates"])
def test_elsewhere_the_default_weights_choose_and_a_note_says_so(loaded, method, pictures, other):
    kind = "auto" if other == "candidates" else "boxes"
    expected = ReferringSegmentation(*loaded, with_candidates(method, kind))(pictures / "a.png", "the left dog")
    names = {"model": loaded[0].name, "segmenter": loaded[1].name, "candidates": "boxes"}
    names |= {} if other == "candidates" else {other: "another"}
    found = ReferringSegmentation(*loaded, weighed(method, kind, **names))(pictures / "a.png", "the left dog")
    assert [one.score for one in found.ranking] == [one.score for one in expected.ranking]
    (note,) = (one for one in found.notes if "default weights" in one)
    assert all(name in note for name in names.values())
    assert "default weights" not in " ".join(expected.notes)


def test_points_are_not_chosen_by_weights_and_need_no_note(loaded, method, pictures):
    found = ReferringSegmentation(*loaded, weighed(method, "points", "m", "s"))(pictures / "a.png", "the left dog")
    assert not any("default weights" in note for note in found.notes)
