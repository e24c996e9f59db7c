"""What people annotated on test photos: masks of nouns, boxes of expressions, POPE's questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.bench.segmenter import decode
from grounding.images import open_image
from grounding.starter.photo.data import SPLITS, Photo, PhotoSet, pope_photo, read_json
from grounding.starter.photo.words import coco_classes
from grounding.types import BoolArray, Box

MIN_AREA = 0.02  # of the photo; smaller things are left out


@dataclass(frozen=True)
class Noun:
    """A class that a photo shows and everything of it.

    Attributes:
        photo: the photo.
        name: the class.
        truth: bool [H, W] on the stored picture, the union of the class's objects.
        other: another class, annotated in the photo where there is one, else one that it does not show.
    """

    photo: Photo
    name: str
    truth: BoolArray = field(repr=False)
    other: str


@dataclass(frozen=True)
class Referred:
    """A person's expression and the box it means, in pixels of the stored picture."""

    photo: Photo
    expression: str
    box_xyxy: Box


@dataclass(frozen=True)
class Presence:
    """A POPE row: a question about a photo and whether the right answer is yes."""

    photo: Photo
    split: str
    question: str
    yes: bool


def nouns(folder: Path, photos: PhotoSet, seed: int = 0) -> list[Noun]:
    """Every annotated class of at least 2 % of its photo, photo by photo.

    Args:
        folder: of the photos.
        photos: what is in it; only test photos are asked about.
        seed: of the choice of other classes.

    Raises:
        ManifestError: the polygons cannot be read.
    """
    annotated: dict[str, Any] = read_json(folder / "instances_some.json")
    rng = np.random.default_rng(seed)
    found: list[Noun] = []
    for photo in photos.test:
        entries = annotated.get(str(photo.id), {"anns": {}})["anns"].values()
        masks: dict[str, BoolArray] = {}
        width, height = photo.size
        for entry in entries:
            mask = decode(entry["segm"], height, width)
            masks[entry["cat"]] = masks.get(entry["cat"], np.zeros_like(mask)) | mask
        stored = open_image(photo.file).size if masks else photo.size
        for name, mask in sorted(masks.items()):
            if mask.mean() >= MIN_AREA:
                rivals = [other for other in sorted(masks) if other != name] or [
                    other for other in coco_classes() if other not in photo.objects
                ]
                found.append(Noun(photo, name, _resized(mask, stored), rivals[rng.integers(len(rivals))]))
    return found


def expressions(folder: Path, photos: PhotoSet) -> list[Referred]:
    """Every human expression that means something in its photo.

    Raises:
        ManifestError: the expressions cannot be read.
    """
    by_id = {photo.id: photo for photo in photos.test}
    found = []
    for row in read_json(folder / "expressions.json"):
        photo = by_id.get(int(row["image_id"]))
        if photo is not None and row["box_xyxy"] is not None:
            with Image.open(photo.file) as picture:
                scale = (picture.width / row["width"], picture.height / row["height"])
            x0, y0, x1, y1 = (float(value) * scale[i % 2] for i, value in enumerate(row["box_xyxy"]))
            found.append(Referred(photo, row["expression"], (x0, y0, x1, y1)))
    return found


def pope_rows(folder: Path, photos: PhotoSet) -> list[Presence]:
    """POPE's rows about the test photos, all three splits.

    Raises:
        ManifestError: a split cannot be read.
    """
    by_id = {photo.id: photo for photo in photos.test}
    return [
        Presence(by_id[pope_photo(row)], split, row["text"], row["label"] == "yes")
        for split in SPLITS
        for row in read_json(folder / f"pope_{split}.json")
        if pope_photo(row) in by_id
    ]


def _resized(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    if mask.shape == size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
