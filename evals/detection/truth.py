"""Ground truth of detection: COCO's and LVIS's annotation files, and drawn scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.data import picture_in
from evals.inputs import read_rows
from evals.task import Picture
from grounding.errors import EvalDataError, UsageError
from grounding.files import user_path
from grounding.scenes.drawing import Scene, draw_scene
from grounding.scenes.files import scene_annotations, scene_instances, scene_seed
from grounding.text.categories import Category, Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from PIL import Image

FILE = "instances.json"
_LISTS = ("images", "annotations", "categories")
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class DetectionTruth:
    """Images with their annotated objects.

    Attributes:
        data: `images`, `annotations` and `categories` as in COCO's files.
        pictures: by the image's id.
        vocabulary: the categories.
    """

    data: Mapping[str, Any] = field(repr=False)
    pictures: Mapping[int, Picture] = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)

    def of(self, images: Sequence[int]) -> dict[str, Any]:
        """The data of some of the images."""
        wanted = set(images)
        return {
            "images": [one for one in self.data["images"] if one["id"] in wanted],
            "annotations": [one for one in self.data["annotations"] if one["image_id"] in wanted],
            "categories": list(self.data["categories"]),
        }


def read_truth(data: str, images: str = "") -> DetectionTruth:
    """Read annotations in COCO's or LVIS's format.

    Args:
        data: the JSON file, or a folder with `instances.json`.
        images: folder of the pictures; the file's own, or its subfolder `images`, where empty.

    Raises:
        EvalDataError: the file cannot be read or lacks something.
    """
    place = user_path(data)
    file = place / FILE if place.is_dir() else place
    rows = read_rows(file, "annotations in COCO's format")
    content = rows[0]
    if len(rows) > 1 or not all(isinstance(content.get(name), list) for name in _LISTS):
        raise EvalDataError(f"{file} has no lists {', '.join(_LISTS)}: give annotations in COCO's or LVIS's format")
    for name, needed in _NEEDED.items():
        for number, one in enumerate(content[name], 1):
            missing = [key for key in needed if not isinstance(one, dict) or key not in one]
            if missing:
                raise EvalDataError(f"entry {number} of {name} in {file} lacks {missing[0]!r}: mend the file")
    if not content["images"]:
        raise EvalDataError(f"{file} lists no image: give annotations of at least one")
    try:
        vocabulary = vocabulary_of([_category(one) for one in content["categories"]], str(file))
    except UsageError as wrong:
        raise EvalDataError(str(wrong)) from wrong
    folder = images or str(file.parent)
    pictures = {int(one["id"]): picture_in(folder, _file_name(one)) for one in content["images"]}
    return DetectionTruth({name: content[name] for name in _LISTS}, pictures, vocabulary)


@cache
def scene_truth(seed: int, count: int) -> DetectionTruth:
    """The truth of the scenes that `grounding scenes` writes for a seed."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        scene = _scene(seed, index)
        size = {"width": scene.image.width, "height": scene.image.height}
        images.append({"id": index + 1, "file_name": f"{index + 1:06d}.png", **size})
        annotations += scene_annotations(scene, index + 1, len(annotations) + 1)
    data = scene_instances(images, annotations, seed)
    pictures: dict[int, Picture] = {index + 1: partial(_picture, seed, index) for index in range(count)}
    vocabulary = vocabulary_of([_category(one) for one in data["categories"]], "of the scenes")
    return DetectionTruth({name: data[name] for name in _LISTS}, pictures, vocabulary)


def _scene(seed: int, index: int) -> Scene:
    return draw_scene(scene_seed(seed, index))


def _picture(seed: int, index: int) -> Image.Image:
    return _scene(seed, index).image


def _category(row: Mapping[str, Any]) -> Category:
    synonyms = row.get("synonyms") or ()
    return Category(int(row["id"]), str(row["name"]), tuple(str(one) for one in synonyms))


def _file_name(row: Mapping[str, Any]) -> str:
    """The picture's name; LVIS gives its address instead, and COCO's names are numbers."""
    if isinstance(row.get("file_name"), str):
        return str(row["file_name"])
    if isinstance(row.get("coco_url"), str):
        return Path(row["coco_url"]).name
    return f"{int(row['id']):012d}.jpg"
