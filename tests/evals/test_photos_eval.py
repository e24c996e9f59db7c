from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_maps import WORDS, made_maps
from PIL import Image
from tiny_photos import tiny_spec, write_photos

from evals.commands.photos import EvalPhotosCommand
from evals.photos.annotations import expressions, nouns
from evals.photos.coco import read_coco
from evals.photos.measure import point_in_box
from evals.photos.plan import PhotoPlan
from evals.photos.pointing import Pointed, box_mask, shuffle_heads
from evals.photos.questions import pope_scores
from evals.scenes import CENTRE
from evals.task import Answer
from evals.tasks.chair import ChairTask
from evals.tasks.pope import PopeTask
from grounding.errors import EvalDataError, ImageError, ManifestError, UsageError
from grounding.models.load import load
from grounding.photos import read_photos
from grounding.starter.photo.model import build_model, build_processor

SYNONYMS = "person, man, woman, people\ndog, puppy\ncar, taxi\nbench\nhot dog\ntraffic light, street light\ntrain\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photos(tmp_path_factory.mktemp("made") / "photos")
    (folder / "synonyms.txt").write_text(SYNONYMS)
    return folder


@pytest.fixture(scope="module")
def tiny_starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-photo-starter")
    spec = tiny_spec()
    build_model(spec, seed=0).save_pretrained(folder)
    build_processor(spec.words, spec.shape).save_pretrained(folder)
    return folder


def test_nouns_are_classes_large_enough_on_the_stored_picture(folder: Path):
    found = nouns(folder, read_photos(folder))
    assert [(noun.photo.id, noun.name) for noun in found] == [(3, "car"), (3, "dog")]
    dog = next(noun for noun in found if noun.name == "dog")
    assert dog.truth.shape == (32, 48)
    assert dog.truth[:, :23].all()
    assert not dog.truth[:, 25:].any()
    assert all(noun.other != noun.name for noun in found)


def test_boxes_are_scaled_to_the_stored_picture_and_empty_ones_left_out(folder: Path):
    found = expressions(folder, read_photos(folder))
    assert [one.expression for one in found] == ["the brown dog near a car", "the zyzzyva"]
    assert found[0].box_xyxy == (0, 0, 24, 32)
    mask = box_mask((1.0, 0.0, 3.0, 2.0), (4, 3))
    assert mask.tolist() == [[False, True, True, False]] * 2 + [[False] * 4]


def test_the_suites_own_tasks_read_a_photo_set(folder: Path):
    """Names of 2014 find the photos, ids give file names, and the list of photos is CHAIR's ground truth."""
    splits = ("random", "popular", "adversarial")
    questions = PopeTask(questions=tuple(folder / f"pope_{split}.json" for split in splits), data=str(folder)).samples()
    assert len(questions) == 12
    assert [one.fields["truth"] for one in questions[:4]] == [True, False, True, False]
    assert {one.picture for one in questions} == {folder / "images" / "000000000001.jpg"}
    listing = str(folder / "images.json")
    described = ChairTask(data=str(folder), ground_truth=listing, synonyms=str(folder / "synonyms.txt"))
    samples = described.samples()
    assert [one.id for one in samples] == [str(photo.id) for photo in read_photos(folder).photos]
    assert [one.picture for one in samples] == [photo.file for photo in read_photos(folder).photos]
    answer = Answer("1", "", "", "A dog and a bench .", 6, True, None)
    assert described.score([answer], folder, 0).data["chair_i"] == 50.0


def test_shuffled_heads_come_from_donors_head_by_head():
    maps = made_maps(words=WORDS[3:])
    whole = made_maps(1)
    donors = [replace(whole, values=np.full_like(whole.values, number)) for number in (1, 2)]
    values = shuffle_heads(maps, donors, np.random.default_rng(0)).values
    assert values.shape == maps.values.shape
    assert set(np.unique(values)) == {1, 2}
    assert all(len(np.unique(head)) == 1 for layer in values[0] for head in layer)


def test_expressions_are_scored_with_what_was_refused_and_without():
    pointed = [Pointed(1, True, True, False), Pointed(1, None, True, True), Pointed(2, False, None, True)]
    scores = point_in_box(pointed)
    assert [scores["point_in_box"][name][0] for name in ("full", "head noun alone", CENTRE)] == [0.3333, 0.6667, 0.6667]
    asked = point_in_box([one for one in pointed if one.full is not None])
    assert asked["n"] == 2
    assert [asked["point_in_box"][name][0] for name in ("full", "head noun alone", CENTRE)] == [0.5, 0.5, 0.5]
    assert asked["full_minus"][CENTRE][0] == 0.0
    assert point_in_box([]) == {"n": 0, "point_in_box": {}, "full_minus": {}}


def test_the_command_measures_everything_and_writes_it_down(
    folder: Path, tiny_starter: Path, tiny_segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = EvalPhotosCommand(
        data=folder,
        model=str(tiny_starter),
        segmenter=str(tiny_segmenter),
        method="plain-mean",  # the starter's own names heads that a tiny model lacks
        synonyms=folder / "synonyms.txt",
        out=tmp_path,
        device="cpu",
    )
    assert command.run() == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["nouns"]["variants"]["full method"]["n"] == 2
    assert sum(asked for _, asked in scores["nouns"]["by_class"].values()) == 2
    assert scores["expressions"]["n"] == 2
    assert scores["expressions"]["refused"]["full"] == 1
    assert scores["expressions"]["answered"]["n"] == 1
    assert {split: row["n"] for split, row in scores["pope"].items()} == dict.fromkeys(scores["pope"], 4)
    assert scores["captions"]["n"] == scores["test_photos"]
    text = (tmp_path / "scores.md").read_text()
    assert "heads of other photos" in text
    assert "| 1 expressions that could be asked |" in text
    assert "POPE" in capsys.readouterr().out


def test_a_photo_that_cannot_be_opened_costs_its_own_questions_only(
    folder: Path, tiny_starter: Path, tiny_segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "images" / "000000000002.jpg").write_bytes(b"no picture")
    command = EvalPhotosCommand(
        data=copy,
        model=str(tiny_starter),
        segmenter=str(tiny_segmenter),
        method="plain-mean",
        synonyms=copy / "synonyms.txt",
        out=tmp_path,
        device="cpu",
    )
    assert command.run() == 1
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["nouns"]["variants"]["full method"]["n"] == 2
    assert scores["expressions"]["n"] == 0
    assert (scores["captions"]["n"], scores["captions"]["failed"]) == (scores["test_photos"] - 1, 1)
    assert "failed: 000000000002.jpg: " in capsys.readouterr().err
    (copy / "images" / "000000000003.jpg").write_bytes(b"no picture")
    with pytest.raises(EvalDataError, match="no annotated class on a test photo that can be opened"):
        replace(command, parts=("nouns",)).run()


def test_a_photo_that_the_segmenter_refuses_is_a_miss_with_its_reason(
    folder: Path,
    tiny_starter: Path,
    tiny_segmenter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch,
):
    from pipelines.referring import ReferringSegmentation

    def refuse(self, image):
        raise ImageError("too thin")

    monkeypatch.setattr(ReferringSegmentation, "encode", refuse)
    options = {"model": str(tiny_starter), "segmenter": str(tiny_segmenter), "method": "plain-mean", "out": tmp_path}
    assert EvalPhotosCommand(data=folder, parts=("nouns",), device="cpu", **options).run() == 1
    row = json.loads((tmp_path / "scores.json").read_text())["nouns"]["variants"]["full method"]
    assert (row["n"], row["failed"], row["miou"]) == (2, 2, 0.0)
    printed = capsys.readouterr()
    assert "failed: photo 3, 'dog': too thin" in printed.err
    assert "full method gave no answer to 2 of 2 questions" in " ".join(printed.out.split())


def test_what_is_missing_is_one_sentence(folder: Path):
    with pytest.raises(UsageError, match="--synonyms"):
        EvalPhotosCommand(data=folder).run()
    with pytest.raises(UsageError, match="--parts cats"):
        EvalPhotosCommand(data=folder, parts=("cats",)).run()
    with pytest.raises(UsageError, match="--limit -1"):
        EvalPhotosCommand(data=folder, parts=("nouns",), limit=-1).run()


def test_questions_with_unknown_words_are_counted_as_failed(folder: Path, tiny_starter: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    rows = json.loads((copy / "pope_popular.json").read_text())
    rows[1]["text"] = "Is there a zyzzyva in the image?"
    (copy / "pope_popular.json").write_text(json.dumps(rows))
    vlm = load(str(tiny_starter), device="cpu")
    scores = pope_scores(vlm, read_photos(copy), PhotoPlan(copy, None, ("pope",)), lambda count: None)
    assert {split: (row["n"], row["failed"]) for split, row in scores.items()} == {
        "random": (4, 0),
        "popular": (3, 1),
        "adversarial": (4, 0),
    }


def coco_folder(folder: Path, **change: object) -> Path:
    """Two photos in COCO's format: a dog on the left half of one, a crowd of dogs on the other."""
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")
    box = [[0, 0, 24, 0, 24, 32, 0, 32]]
    data: dict[str, object] = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 48, "height": 32} for n in (1, 2)],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 18, "segmentation": box, "iscrowd": 0},
            {"image_id": 2, "category_id": 18, "segmentation": {"size": [32, 48], "counts": [0, 1536]}, "iscrowd": 1},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(data | change))
    return folder


def test_nouns_of_a_coco_folder_are_compared_over_methods(
    tmp_path: Path, tiny_starter: Path, tiny_segmenter: Path, capsys: pytest.CaptureFixture[str]
):
    folder = coco_folder(tmp_path / "coco")
    (found,) = nouns(folder, read_coco(folder))
    assert (found.photo.id, found.name) == (1, "dog")
    assert found.truth[:, :23].all()
    assert not found.truth[:, 25:].any()
    options = dict(
        data=folder, model=str(tiny_starter), segmenter=str(tiny_segmenter), method="plain-mean", device="cpu"
    )
    with pytest.raises(UsageError, match="choose --parts nouns"):
        EvalPhotosCommand(**options, out=tmp_path / "out").run()
    command = EvalPhotosCommand(
        **options, parts=("nouns",), methods=("last-layer", "refam"), vary=("refinements",), out=tmp_path / "out"
    )
    assert command.run() == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["nouns"]
    assert {"full method", "last-layer", "+ biased cut"} <= set(scores["variants"])
    assert "last-layer" in scores["full_minus"]
    assert list(scores["left_out"]) == ["refam"]
    assert "mIoU, full minus this" in (tmp_path / "out" / "scores.md").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"annotations": [{"image_id": 1, "category_id": 7, "segmentation": []}]},
            "category 7, which it does not list",
        ),
        ({"images": [{"id": 1}]}, "field required at images.0.file_name"),
        ({"images": [{"id": 9, "file_name": "9.jpg", "width": 4, "height": 4}]}, "1 of 1 photos are missing"),
    ],
)
def test_a_wrong_coco_file_is_one_sentence(tmp_path: Path, change: dict[str, object], said: str):
    with pytest.raises(ManifestError, match=said):
        read_coco(coco_folder(tmp_path / "coco", **change))


def test_a_wrong_synonym_list_is_found_before_any_work(folder: Path, tiny_starter: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "empty.txt").write_text("")
    monkeypatch.setattr(EvalPhotosCommand, "load", lambda self: pytest.fail("the model was loaded"))
    for wrong in (tmp_path / "none.txt", tmp_path / "empty.txt"):
        with pytest.raises(EvalDataError, match=wrong.name):
            EvalPhotosCommand(data=folder, model=str(tiny_starter), synonyms=wrong, out=tmp_path / "out").run()
