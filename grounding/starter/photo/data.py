"""Photos with captions, and which of them a model is never trained on.

A folder of photos holds `images/ID.jpg` (twelve digits) and `images.json`: a list of objects with `id`, `width`,
`height` (of the original; pictures may be stored smaller), `captions` and `chair_objects`, the COCO classes present by
the rules of CHAIR (Rohrbach et al., 2018). What evaluations need besides (`pope_*.json`, `expressions.json`,
`instances_some.json`) is read here for one purpose only: to know which photos to keep away from training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from grounding.errors import ManifestError

SPLITS = ("random", "popular", "adversarial")
_HELD_OUT = 5  # one photo in so many of those that nothing is asked about is kept for testing all the same


class _Row(BaseModel):
    id: int
    width: int
    height: int
    captions: list[str]
    chair_objects: list[str]


@dataclass(frozen=True)
class Photo:
    """One photo and what people and annotations say of it as a whole.

    Attributes:
        id: COCO's number.
        file: the stored picture, perhaps smaller than the original.
        size: (width, height) of the original in pixels, which annotations refer to.
        captions: what people wrote.
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
        asked: ids of the photos that an evaluation asks about: those with a POPE row, an expression or a polygon.
    """

    photos: tuple[Photo, ...]
    asked: frozenset[int]

    @cached_property
    def train(self) -> tuple[Photo, ...]:
        """The photos to learn from."""
        return tuple(photo for photo in self.photos if not is_test(photo.id, self.asked))

    @cached_property
    def test(self) -> tuple[Photo, ...]:
        """The photos to measure on."""
        return tuple(photo for photo in self.photos if is_test(photo.id, self.asked))


def is_test(photo_id: int, asked: Iterable[int]) -> bool:
    """Whether a photo is kept for measuring: every one that is asked about, and a fifth of the rest by its id's hash.

    The hash depends on the id alone, so the answer stays when photos are added.
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
    asked = {pope_photo(row) for name in SPLITS for row in read_json(folder / f"pope_{name}.json")}
    asked |= {int(row["image_id"]) for row in read_json(folder / "expressions.json")}
    asked |= {int(key) for key in read_json(folder / "instances_some.json")}
    return PhotoSet(photos, frozenset(asked))


def pope_photo(row: dict[str, Any]) -> int:
    """The photo a POPE row asks about: the number at the end of its file name."""
    return int(Path(row["image"]).stem.rpartition("_")[2])


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: it is missing or is no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as wrong:
        raise ManifestError(
            f"{file} cannot be read ({wrong.strerror}): expected a folder of photos with images.json, "
            "expressions.json, instances_some.json and pope_random.json, pope_popular.json, pope_adversarial.json"
        ) from wrong
    except ValueError as wrong:
        raise ManifestError(f"{file} is not JSON: get the complete file") from wrong


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
