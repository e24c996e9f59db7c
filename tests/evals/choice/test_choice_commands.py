"""`grounding eval candidates` and `grounding calibrate confidence` on made photos and scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_photos import write_photos

from evals.choice.part import is_for_fitting
from evals.choice.questions import photo_questions, scene_questions, truth_hash
from evals.commands.candidates import CalibrateConfidenceCommand, EvalCandidatesCommand
from grounding.candidates.fitted import FittedWith
from grounding.candidates.rule import CandidateRule
from grounding.errors import EvalDataError, UsageError
from grounding.methods import load_method

PHOTO = 3  # the annotated one of the made photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def command(tiny_model, tiny_segmenter, tmp_path, loaded_once):
    def make(cls, **options):
        names = {"model": str(tiny_model), "segmenter": str(tiny_segmenter), "method": "plain-mean", "device": "cpu"}
        return cls(**(names | {"out": tmp_path / "out", "json": True} | options))

    return make


def test_photos_are_asked_for_what_is_there_and_for_one_thing_that_is_not(photos):
    asked = photo_questions([photos])
    there = {one.words: one.truth for one in asked if one.truth is not None}
    assert there.keys() == {"dog", "car"}  # the bench is too small
    assert all(mask.shape == asked[0].image().size[::-1] for mask in there.values())
    (absent,) = (one for one in asked if one.truth is None)
    assert absent.words not in ("dog", "car", "person", "bench")
    assert [one.words for one in photo_questions([photos], absent=False)] == list(there)


def test_a_photo_of_two_folders_is_asked_once_and_parts_do_not_meet(photos):
    assert len(photo_questions([photos, photos])) == len(photo_questions([photos]))
    part, other = ("fit", "held-out") if is_for_fitting(PHOTO) else ("held-out", "fit")
    assert len(photo_questions([photos], part)) == 3
    with pytest.raises(EvalDataError, match="no annotated class"):
        photo_questions([photos], other)
    assert 0.25 < sum(map(is_for_fitting, range(3000))) / 3000 < 0.42


def test_coco_folders_are_read_too(photos, tmp_path):
    (tmp_path / "images").symlink_to(photos / "images")
    polygon = [[0, 0, 48, 0, 48, 64, 0, 64]]
    data = {
        "images": [{"id": 5, "file_name": f"{5:012d}.jpg", "width": 96, "height": 64}],
        "categories": [{"id": 7, "name": "dog"}],
        "annotations": [{"image_id": 5, "category_id": 7, "segmentation": polygon, "iscrowd": 0}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    dog, absent = photo_questions([tmp_path])
    assert (dog.picture, dog.words) == (5, "dog")
    assert dog.truth.mean() == pytest.approx(0.5)
    assert absent.truth is None


def test_scenes_are_asked_for_a_shape_they_do_not_show():
    asked = list(scene_questions(1, 4))
    assert sum(one.truth is not None for one in asked) == 4
    assert all(one.words.startswith("the ") for one in asked if one.truth is None)


def test_kinds_are_measured_on_the_same_questions(command, tmp_path, capsys):
    assert command(EvalCandidatesCommand, scenes=3, kinds=("points", "boxes")).run() == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads((tmp_path / "out" / "scores.json").read_text())
    assert data["kinds"].keys() == {"points", "boxes"}
    assert data["kinds"]["boxes"]["n"] == 3
    assert len(data["kinds"]["boxes"]["minus_points"]) == 3
    assert data["kinds"]["boxes"]["best_miou"][0] >= data["kinds"]["points"]["best_miou"][0]
    assert "| boxes | 3 |" in (tmp_path / "out" / "scores.md").read_text()


def test_weights_that_do_not_hold_are_said_in_the_scores(command, tmp_path, capsys):
    rule = CandidateRule("boxes", weights_fitted_with=FittedWith("another-model", "mobile-sam", "boxes"))
    file = tmp_path / "elsewhere.yaml"
    file.write_text(replace(load_method("plain-mean"), candidates=rule).to_yaml())
    assert command(EvalCandidatesCommand, scenes=1, method=str(file), json=False).run() == 0
    said = "the method's were fitted with another-model, mobile-sam and --candidates boxes"
    assert said in " ".join(capsys.readouterr().out.split())
    (note,) = json.loads((tmp_path / "out" / "scores.json").read_text())["notes"]
    assert said in note


@pytest.mark.slow
def test_calibrating_writes_a_method_that_the_eval_uses(command, tmp_path, capsys, monkeypatch):
    # Random models are never right: a low bar makes some answers so.
    for place in ("evals.choice.fitting.RIGHT", "evals.choice.scores.RIGHT"):
        monkeypatch.setattr(place, 0.02)
    file = tmp_path / "fitted.yaml"
    options = {"scenes": 6, "candidates": "boxes"}
    assert command(CalibrateConfidenceCommand, **options, weights=True, out=file).run() == 0
    data = json.loads(capsys.readouterr().out)
    assert data["failed"] == 0
    assert data["on_the_fitted"]["n"] == 6
    assert len(data["on_the_fitted"]["minus_points"]) == 3
    fitted = load_method(file)
    assert fitted.candidates.kind == "boxes"
    assert "scenes of seed 0" in fitted.confidence.fitted_on
    assert fitted.candidates.weights != load_method("plain-mean").candidates.weights
    assert command(EvalCandidatesCommand, **options, kinds=("boxes",), method=str(file)).run() == 0
    assert json.loads(capsys.readouterr().out)["kinds"]["boxes"]["reliability"]
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 5000
    assert yaml.safe_load(file.read_text())["confidence"]["candidates"] == "boxes"


@pytest.mark.slow
def test_without_asking_the_model_its_answers_do_not_count(command, tmp_path, capsys, monkeypatch):
    for place in ("evals.choice.fitting.RIGHT", "evals.choice.scores.RIGHT"):
        monkeypatch.setattr(place, 0.02)
    monkeypatch.setattr("evals.choice.presence.presence", None)
    file = tmp_path / "fitted.yaml"
    options = {"scenes": 6, "candidates": "boxes", "json": False}
    assert command(CalibrateConfidenceCommand, **options, ask=False, out=file).run() == 0
    fitted = load_method(file)
    assert not fitted.confidence.asks
    assert fitted.candidates.weights == load_method("plain-mean").candidates.weights
    printed = " ".join(capsys.readouterr().out.split())
    assert "on the same answers: mIoU" in printed
    assert "over points" in printed
    assert "on pictures left out, in five folds:" in printed


def test_the_truth_has_a_hash_of_pictures_words_and_masks():
    asked = list(scene_questions(1, 3))
    assert truth_hash(asked) == truth_hash(list(scene_questions(1, 3)))
    assert len(truth_hash(asked)) == 12
    moved = [replace(asked[0], truth=np.roll(asked[0].truth, 1)), *asked[1:]]
    assert len({truth_hash(asked), truth_hash(asked[1:]), truth_hash(asked[::-1]), truth_hash(moved)}) == 4


@pytest.mark.parametrize("wrong", [{}, {"scenes": 2, "data": ("x",)}, {"scenes": -1}, {"scenes": 2, "limit": -1}])
def test_what_to_ask_about_must_be_clear(command, wrong):
    with pytest.raises(UsageError, match="expected annotated photos or a number of scenes"):
        command(EvalCandidatesCommand, **wrong).run()


def test_kinds_must_be_given_once(command):
    with pytest.raises(UsageError, match="each once"):
        command(EvalCandidatesCommand, scenes=1, kinds=("boxes", "boxes")).run()


def test_weights_are_not_for_points(command):
    with pytest.raises(UsageError, match="add --candidates"):
        command(CalibrateConfidenceCommand, scenes=1, weights=True, out=Path("x.yaml")).run()
