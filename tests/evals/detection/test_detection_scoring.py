from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from extras import needs_extra

from evals.detection.scoring import best_per_category, evaluate, score_detections, score_recall
from evals.detection.truth import read_truth, scene_truth
from grounding.errors import EvalDataError
from grounding.io import encode_mask

needs_evaluator = needs_extra("faster_coco_eval", "eval")
SIDE = 200


def mask(left: int, top: int, width: int, height: int) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[top : top + height, left : left + width] = True
    return found


def annotation(number: int, image: int, category: int, box: tuple[int, int, int, int]) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [float(side) for side in box],
        "area": float(box[2] * box[3]),
        "segmentation": encode_mask(mask(*box)),
        "iscrowd": 0,
    }


def result(image: int, category: int, box: tuple[int, int, int, int], score: float) -> dict:
    found = annotation(0, image, category, box)
    return {name: found[name] for name in ("image_id", "category_id", "bbox", "segmentation")} | {"score": score}


BOXES = ((10, 10, 20, 20), (50, 50, 60, 60), (0, 0, 120, 120))


@pytest.fixture
def truth() -> dict:
    return {
        "images": [{"id": image, "width": SIDE, "height": SIDE, "file_name": f"{image}.png"} for image in (1, 2, 3)],
        "annotations": [
            annotation(number, image, category, BOXES[number - 1])
            for number, (image, category) in enumerate(((1, 1), (1, 2), (2, 1)), 1)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }


@pytest.fixture
def perfect(truth) -> list[dict]:
    return [
        result(one["image_id"], one["category_id"], tuple(map(int, one["bbox"])), 0.5) for one in truth["annotations"]
    ]


@needs_evaluator
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_truth_itself_scores_one(truth, perfect, kind):
    scores = score_detections(truth, perfect, kind)
    assert set(scores.values()) == {1.0} | {scores["AR_1"]}
    assert score_recall(truth, perfect, kind) == {"mAR": 1.0, "AR50": 1.0, "AR75": 1.0}


@needs_evaluator
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_those_of_pycocotools(truth, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = np.random.default_rng(3)
    found = []
    for one in truth["annotations"]:
        for _ in range(3):
            x, y, w, h = (int(side) for side in one["bbox"])
            dx, dy = generator.integers(-8, 9, 2).tolist()
            box = (max(0, x + dx), max(0, y + dy), w, h)
            found.append(result(one["image_id"], int(generator.integers(1, 3)), box, float(generator.random())))
    reference = COCO()
    reference.dataset = json.loads(json.dumps(truth))
    reference.createIndex()
    judged = COCOeval(reference, reference.loadRes(json.loads(json.dumps(found))), kind)
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    scores = score_detections(truth, found, kind)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
    for name, value in zip(names, judged.stats, strict=False):
        assert scores[name] == pytest.approx(max(0.0, value), abs=1e-9), name
    assert 0 < scores["AP"] < 1


@needs_evaluator
def test_fixed_ap_has_no_limit_per_image_but_one_per_category(truth):
    noise = [result(1, 1, (100, 100, 10 + i % 50, 10), 0.9) for i in range(120)]
    hit = [result(1, 1, BOXES[0], 0.1), result(2, 1, BOXES[2], 0.1), result(1, 2, BOXES[1], 0.1)]
    scores = score_detections(truth, noise + hit, "segm")
    assert scores["AP"] < scores["fixed_AP"]  # the hit is number 121 of its image
    many = [result(2, 1, BOXES[0], 1 - i / 1e6) for i in range(3)] + [result(2, 2, BOXES[0], 0.1)]
    assert best_per_category(many, limit=2) == [many[0], many[1], many[3]]


@needs_evaluator
def test_recall_without_categories_counts_names_that_are_none(truth):
    wrong = [
        {**result(one["image_id"], 1, tuple(map(int, one["bbox"])), 0.5), "category_id": None}
        for one in truth["annotations"]
    ]
    assert score_recall(truth, wrong, "segm")["mAR"] == 1.0
    assert score_recall(truth, wrong[:1], "segm")["mAR"] == pytest.approx(1 / 3)


@needs_evaluator
def test_no_result_scores_zero_and_an_image_without_objects_only_costs_precision(truth, perfect):
    nothing = score_detections(truth, [], "bbox")
    assert set(nothing.values()) == {0.0}
    assert set(nothing) == set(score_detections(truth, perfect, "bbox"))
    extra = [*perfect, result(3, 1, BOXES[0], 0.99)]
    scores = score_detections(truth, extra, "bbox")
    assert scores["AR_100"] == 1.0
    assert scores["AP"] < 1.0
    assert evaluate({**truth, "annotations": []}, perfect, "bbox", (100,)).ap() == 0.0


@needs_evaluator
def test_lvis_counts_only_what_an_image_was_searched_for(truth, perfect):
    for one, frequency in zip(truth["categories"], "rf", strict=True):
        one["frequency"] = frequency
    for one in truth["images"]:
        one |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    stray = [result(3, 1, BOXES[0], 0.99)]  # nobody looked for dogs in image 3
    scores = score_detections(truth, perfect + stray, "segm")
    assert scores["AP"] == scores["AP_rare"] == scores["fixed_AP_frequent"] == 1.0
    assert "AR_300" in scores
    truth["images"][2]["neg_category_ids"] = [1]  # now somebody did, and there are none
    assert score_detections(truth, perfect + stray, "segm")["AP_rare"] < 1.0


def test_annotations_are_read_with_their_pictures(tmp_path, truth):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2.png").write_bytes(b"")
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(truth))
    found = read_truth(str(tmp_path))
    assert found.pictures[2] == tmp_path / "images" / "2.png"
    assert [one.name for one in found.vocabulary.categories] == ["dog", "cat"]
    assert len(found.of([1])["annotations"]) == 2
    del truth["images"][0]["file_name"]
    truth["images"][0]["coco_url"] = "http://images/val2017/000000000001.jpg"
    file.write_text(json.dumps(truth))
    assert read_truth(str(file), str(tmp_path)).pictures[1].name == "000000000001.jpg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("annotations"), "has no lists"),
        (lambda data: data["annotations"][1].pop("area"), "entry 2 of annotations"),
        (lambda data: data["categories"].append({"id": 3, "name": "dogs"}), "has the name 'dog' twice"),
        (lambda data: data["images"].clear(), "lists no image"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(tmp_path, truth, change, said):
    change(truth)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(truth))
    with pytest.raises(EvalDataError, match=said):
        read_truth(str(file))
    with pytest.raises(EvalDataError, match="missing"):
        read_truth(str(Path(tmp_path) / "missing.json"))


def test_scenes_have_the_truth_that_the_command_writes(tmp_path):
    from grounding.scenes.files import write_scenes

    write_scenes(tmp_path, 5, 2)
    written = read_truth(str(tmp_path))
    drawn = scene_truth(5, 2)
    assert json.loads(json.dumps(drawn.data["annotations"])) == written.data["annotations"]
    assert drawn.vocabulary == written.vocabulary
    assert drawn.pictures[2]().size == (384, 384)
