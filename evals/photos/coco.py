"""A folder of photos with annotations in COCO's format: images/ and instances.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from grounding.errors import ManifestError
from grounding.photos import Photo, PhotoSet, read_json

FILE = "instances.json"


class _Image(BaseModel):
    id: int
    file_name: str
    width: int
    height: int


class _Category(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    segmentation: Any
    iscrowd: int = 0


class _Instances(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def is_coco(folder: Path) -> bool:
    """Whether the folder is of this layout and not one of `grounding.photos`."""
    return (folder / FILE).is_file() and not (folder / "images.json").is_file()


def read_coco(folder: Path) -> PhotoSet:
    """Read the photos, without captions; all of them are test photos.

    Raises:
        ManifestError: the file is not of COCO's format, or a photo is missing.
    """
    data = _read(folder)
    names = {category.id: category.name for category in data.categories}
    classes: dict[int, set[str]] = {}
    for one in data.annotations:
        classes.setdefault(one.image_id, set()).add(names[one.category_id])
    photos = tuple(
        Photo(
            image.id,
            folder / "images" / image.file_name,
            (image.width, image.height),
            (),
            tuple(sorted(classes.get(image.id, ()))),
        )
        for image in sorted(data.images, key=lambda image: image.id)
    )
    if missing := [photo.file for photo in photos if not photo.file.is_file()]:
        raise ManifestError(
            f"{len(missing)} of {len(photos)} photos are missing, {missing[0]} among them: complete the folder"
        )
    return PhotoSet(photos, frozenset(photo.id for photo in photos))


def coco_masks(folder: Path) -> dict[int, list[tuple[str, Any]]]:
    """Per photo the (class, segmentation) of its objects; crowds are left out.

    Raises:
        ManifestError: the file is not of COCO's format.
    """
    data = _read(folder)
    names = {category.id: category.name for category in data.categories}
    found: dict[int, list[tuple[str, Any]]] = {}
    for one in data.annotations:
        if not one.iscrowd:
            found.setdefault(one.image_id, []).append((names[one.category_id], one.segmentation))
    return found


def _read(folder: Path) -> _Instances:
    try:
        data = TypeAdapter(_Instances).validate_python(read_json(folder / FILE))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top"
        raise ManifestError(
            f"{folder / FILE}: {first['msg'].lower()} at {where}: expected COCO's images, categories and annotations"
        ) from wrong
    known = {category.id for category in data.categories}
    if unknown := [one.category_id for one in data.annotations if one.category_id not in known]:
        raise ManifestError(f"{folder / FILE} has annotations of category {unknown[0]}, which it does not list")
    return data
