"""Photo sets: COCO photos with captions and classes, and the split into training and test photos.

A folder of photos holds `images/ID.jpg` (twelve digits) and `images.json`: a list of objects with `id`, `width`,
`height` (of the original; pictures may be stored smaller), `captions` and `chair_objects`, the COCO classes present by
the rules of CHAIR (Rohrbach et al., 2018). Beside it lie `pope_*.json`, `expressions.json` and `instances_some.json`.
Only the ids in them are read here, to keep the photos that an evaluation asks about out of training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from grounding.errors import ManifestError
from grounding.files import json_fault, parse_json

SPLITS = ("random", "popular", "adversarial")
_HELD_OUT = 5  # one in five of the photos that no evaluation asks about is a test photo too


class _Row(BaseModel):
    id: int
    width: int
    height: int
    captions: list[str]
    chair_objects: list[str]


@dataclass(frozen=True)
class Photo:
    """One photo with its captions and classes.

    Attributes:
        id: COCO's number.
        file: the stored picture, perhaps smaller than the original.
        size: (width, height) of the original in pixels; annotations are in its frame.
        captions: human captions.
        objects: COCO classes present, in alphabetical order.
    """

    id: int
    file: Path
    size: tuple[int, int]
    captions: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class PhotoSet:
    """The photos of a folder.

    Attributes:
        photos: by ascending id.
        asked: ids of the photos with a POPE row, an expression or a polygon.
    """

    photos: tuple[Photo, ...]
    asked: frozenset[int]

    @cached_property
    def train(self) -> tuple[Photo, ...]:
        """The training photos."""
        return tuple(photo for photo in self.photos if not is_test(photo.id, self.asked))

    @cached_property
    def test(self) -> tuple[Photo, ...]:
        """The test photos."""
        return tuple(photo for photo in self.photos if is_test(photo.id, self.asked))


def is_test(photo_id: int, asked: Iterable[int]) -> bool:
    """Whether a photo is a test photo: every one in `asked`, and a fifth of the rest by a hash of the id.

    The hash depends on the id alone, so that a photo stays in its part when photos are added.
    """
    digest = hashlib.blake2b(str(photo_id).encode(), digest_size=8).digest()
    return photo_id in asked or int.from_bytes(digest, "big") % _HELD_OUT == 0


def read_photos(folder: Path) -> PhotoSet:
    """Read a folder of photos.

    Raises:
        ManifestError: a file is missing or is not of this layout.
    """
    rows = _rows(folder / "images.json")
    photos = tuple(
        Photo(
            id=row.id,
            file=folder / "images" / f"{row.id:012d}.jpg",
            size=(row.width, row.height),
            captions=tuple(row.captions),
            objects=tuple(sorted(row.chair_objects)),
        )
        for row in sorted(rows, key=lambda row: row.id)
    )
    if missing := [photo.file for photo in photos if not photo.file.is_file()]:
        raise ManifestError(
            f"{len(missing)} of {len(photos)} photos are missing, {missing[0]} among them: complete the folder"
        )
    try:
        asked = {coco_number(row["image"]) for name in SPLITS for row in read_json(folder / f"pope_{name}.json")}
        asked |= {int(row["image_id"]) for row in read_json(folder / "expressions.json")}
        asked |= {int(key) for key in read_json(folder / "instances_some.json")}
    except (KeyError, TypeError, ValueError) as wrong:
        raise ManifestError(
            f"the questions in {folder} do not name their photos by COCO's numbers ({type(wrong).__name__}: {wrong}): "
            "get the complete folder"
        ) from wrong
    return PhotoSet(photos, frozenset(asked))


def coco_number(name: str) -> int:
    """The photo's number at the end of a COCO file name, of 2014 or of 2017."""
    return int(Path(name).stem.rpartition("_")[2])


@cache
def coco_classes() -> tuple[str, ...]:
    """The eighty classes of COCO in the order of their numbers, as torchvision lists them for its detectors."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in names if name not in ("__background__", "N/A"))


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: it is missing or is not JSON.
    """
    try:
        return parse_json(file.read_bytes())
    except OSError as wrong:
        raise ManifestError(
            f"{file} cannot be read ({wrong.strerror}): expected a folder of photos with images.json, "
            "expressions.json, instances_some.json and pope_random.json, pope_popular.json, pope_adversarial.json"
        ) from wrong
    except ValueError as wrong:
        raise ManifestError(f"{file} {json_fault(wrong)}: get the complete file") from wrong


def _rows(file: Path) -> list[_Row]:
    data = read_json(file)
    try:
        return TypeAdapter(list[_Row]).validate_python(data)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(
            f"{file}: {first['msg'].lower()} at {where or 'the top'}: expected a list of photos, each with id, width, "
            "height, captions and chair_objects"
        ) from wrong
