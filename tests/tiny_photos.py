"""A folder of made-up photos in the layout that the photo starter reads, and a starter small enough for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grounding.starter.photo.model import Shape, Spec
from grounding.starter.photo.words import vocabulary

SIZE = (96, 64)  # the originals'; stored at half of it
CAPTIONS = (
    "A brown dog runs on the grass .",
    "A man with a brown dog near a red car .",
    "The man sits on a bench beside a dog .",
    "A red car on a street with a man .",
    "Two people and a dog on the grass .",
)
STAGES = ((1, 3, 1, 1, 8), (1, 3, 2, 2, 8), (1, 5, 2, 2, 8), (1, 3, 2, 2, 12), (2, 3, 2, 2, 16))


def write_photos(folder: Path, count: int = 16) -> Path:
    """Photos 1 to `count`; 1 has a POPE row, 2 an expression and 3 polygons of a dog (left half) and a car."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1, count + 1):
        pixels = rng.integers(0, 256, (SIZE[1] // 2, SIZE[0] // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:012d}.jpg")
        objects = ["dog", "person"] if number % 2 else ["car", "person"]
        rows.append({"id": number, "width": SIZE[0], "height": SIZE[1], "captions": CAPTIONS, "chair_objects": objects})
    pope = [
        {
            "question_id": number,
            "image": "COCO_val2014_000000000001.jpg",
            "text": f"Is there a {name} in the image?",
            "label": label,
        }
        for number, (name, label) in enumerate((("dog", "yes"), ("car", "no"), ("person", "yes"), ("bench", "no")), 1)
    ]
    width, height = SIZE
    anns = {
        "1": {"cat": "dog", "segm": [[0, 0, width / 2, 0, width / 2, height, 0, height]], "iscrowd": 0},
        "2": {"cat": "car", "segm": [[width / 2, 0, width, 0, width, 20, width / 2, 20]], "iscrowd": 0},
        "3": {"cat": "bench", "segm": [[90, 60, 94, 60, 94, 63, 90, 63]], "iscrowd": 0},
    }
    box = {"image_id": 2, "width": width, "height": height}
    expressions = [
        {**box, "expression": "the brown dog near a car", "box_xyxy": [0, 0, 48, 64]},
        {**box, "expression": "the zyzzyva", "box_xyxy": [48, 0, 96, 64]},
        {**box, "expression": "no such thing", "box_xyxy": None},
    ]
    files: dict[str, Any] = {
        "images": rows,
        "expressions": expressions,
        "instances_some": {"3": {"info": {}, "anns": anns}},
        **{f"pope_{split}": pope for split in ("random", "popular", "adversarial")},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def tiny_spec() -> Spec:
    """A starter of 64 px pictures, 4 x 4 cells and two narrow layers; its words are those of the captions."""
    from grounding.starter.photo.tower import PhotoTowerConfig

    tower = PhotoTowerConfig(image_size=64, stages=STAGES, stem_size=8, head_size=24, wave_size=8)
    shape = Shape(width=32, layers=2, heads=2, hidden=48, image_size=64, pooling=1)
    return Spec(vocabulary(CAPTIONS, min_count=1), 9, shape, tower)
