"""Annotations of test photos: masks of nouns and boxes of human expressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.bench.segmenter import decode
from evals.photos.coco import coco_masks, is_coco
from grounding.errors import GroundingError
from grounding.faults import attempt_one
from grounding.geometry import Box
from grounding.images import open_image
from grounding.photos import Photo, PhotoSet, coco_classes, read_json
from grounding.types import BoolArray

MIN_AREA = 0.02  # share of the photo; smaller masks are left out


@dataclass(frozen=True)
class Noun:
    """A class present in a photo, with the mask of all its objects.

    Attributes:
        photo: the photo.
        name: the class.
        truth: bool [H, W] in the frame of the stored picture, the union of the class's objects.
        other: another class: one annotated in the photo if there is one, else one that is absent from it.
    """

    photo: Photo
    name: str
    truth: BoolArray = field(repr=False)
    other: str


@dataclass(frozen=True)
class Referred:
    """A human referring expression and its box, xyxy in pixels of the stored picture."""

    photo: Photo
    expression: str
    box_xyxy: Box


LeftOut = Callable[[Path, GroundingError], None]
"""Called with a photo that cannot be used, and the error."""


def nouns(folder: Path, photos: PhotoSet, seed: int = 0, left_out: LeftOut = lambda photo, error: None) -> list[Noun]:
    """List every annotated class of at least 2 % of its photo, photo by photo.

    Args:
        folder: of the photos, with `instances_some.json` or COCO's `instances.json`.
        photos: its photos; only test photos are used.
        seed: of the choice of other classes.
        left_out: called for every photo that cannot be opened.

    Raises:
        ManifestError: the polygons cannot be read.
    """
    annotated = coco_masks(folder) if is_coco(folder) else _some_masks(folder)
    rng = np.random.default_rng(seed)
    found: list[Noun] = []
    for photo in photos.test:
        masks: dict[str, BoolArray] = {}
        width, height = photo.size
        for name, segmentation in annotated.get(photo.id, ()):
            mask = decode(segmentation, height, width)
            masks[name] = masks.get(name, np.zeros_like(mask)) | mask
        opened = attempt_one(partial(open_image, photo.file)) if masks else None
        if isinstance(opened, GroundingError):
            left_out(photo.file, opened)
            continue
        stored = opened.size if opened else photo.size
        for name, mask in sorted(masks.items()):
            if mask.mean() >= MIN_AREA:
                rivals = [other for other in sorted(masks) if other != name] or [
                    other for other in coco_classes() if other not in photo.objects
                ]
                found.append(Noun(photo, name, _resized(mask, stored), rivals[rng.integers(len(rivals))]))
    return found


def expressions(folder: Path, photos: PhotoSet, left_out: LeftOut = lambda photo, error: None) -> list[Referred]:
    """List every human expression that has a box in its photo; of test photos only.

    Args:
        folder: of the photos.
        photos: its photos.
        left_out: called for every photo that cannot be opened, once for each of its expressions.

    Raises:
        ManifestError: the expressions cannot be read.
    """
    by_id = {photo.id: photo for photo in photos.test}
    found = []
    for row in read_json(folder / "expressions.json"):
        photo = by_id.get(int(row["image_id"]))
        if photo is not None and row["box_xyxy"] is not None:
            size = attempt_one(partial(_stored_size, photo))
            if isinstance(size, GroundingError):
                left_out(photo.file, size)
                continue
            scale = (size[0] / row["width"], size[1] / row["height"])
            x0, y0, x1, y1 = (float(value) * scale[i % 2] for i, value in enumerate(row["box_xyxy"]))
            found.append(Referred(photo, row["expression"], (x0, y0, x1, y1)))
    return found


def _some_masks(folder: Path) -> dict[int, list[tuple[str, Any]]]:
    """Per photo the (class, segmentation) of its objects."""
    annotated: dict[str, Any] = read_json(folder / "instances_some.json")
    return {
        int(photo): [(entry["cat"], entry["segm"]) for entry in one["anns"].values()]
        for photo, one in annotated.items()
    }


def _stored_size(photo: Photo) -> tuple[int, int]:
    try:
        with Image.open(photo.file) as picture:
            return picture.size
    except OSError:
        return open_image(photo.file).size  # its sentence says what is wrong


def _resized(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    if mask.shape == size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
