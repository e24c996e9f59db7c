"""Questions with a known mask, or known to have none: nouns of annotated photos, expressions of drawn scenes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.bench.segmenter import decode
from evals.choice.part import Part, is_for_fitting
from evals.photos.annotations import MIN_AREA, LeftOut, nouns
from evals.scenes import draw_samples
from grounding.errors import EvalDataError, GroundingError
from grounding.images import open_image
from grounding.photos import coco_classes, read_json, read_photos
from grounding.run_lengths import pack
from grounding.runs.attempts import attempt_one
from grounding.scenes.drawing import SHAPES, draw_scene
from grounding.scenes.files import scene_seed
from grounding.types import BoolArray


@dataclass(frozen=True, eq=False)
class MaskQuestion:
    """Words about a picture, and their mask.

    Attributes:
        picture: number of the picture; questions about one picture are resampled together.
        image: opens it, RGB.
        words: the expression.
        truth: bool [H, W]; None where the picture has no such thing.
    """

    picture: int
    image: Callable[[], Image.Image] = field(repr=False)
    words: str
    truth: BoolArray | None = field(repr=False)


def photo_questions(
    folders: Sequence[Path],
    part: Part = "all",
    seed: int = 0,
    *,
    absent: bool = True,
    left_out: LeftOut = lambda photo, error: None,
) -> list[MaskQuestion]:
    """Ask for every class of at least 2 % of its photo, and for one class that is not in the photo.

    Args:
        folders: of photos, in the layout of `grounding.photos` or with COCO's `instances.json` beside `images/`; a
            photo that lies in several is asked about in the first.
        part: which photos.
        seed: of the choice of absent classes.
        absent: also ask for what is not there.
        left_out: called for every photo that cannot be opened.

    Raises:
        ManifestError: the annotations cannot be read.
        EvalDataError: there is nothing to ask.
    """
    rng = np.random.default_rng(seed)
    found: list[MaskQuestion] = []
    seen: set[int] = set()
    for folder in folders:
        own = _coco(folder, left_out) if (folder / "instances.json").is_file() else _mini(folder, seed, left_out)
        for number, image, masks, objects in own:
            if number in seen or (part != "all" and is_for_fitting(number) != (part == "fit")):
                continue
            seen.add(number)
            found += [MaskQuestion(number, image, name, mask) for name, mask in masks.items()]
            others = [name for name in coco_classes() if name not in objects]
            if absent and masks:
                found.append(MaskQuestion(number, image, others[rng.integers(len(others))], None))
    if not found:
        raise EvalDataError(f"{', '.join(map(str, folders))}: no annotated class of at least {MIN_AREA:.0%} of a photo")
    return found


def scene_questions(seed: int, limit: int, *, absent: bool = True) -> Iterator[MaskQuestion]:
    """Ask for one thing of each scene, as `evals.scenes.draw_samples` does, and for a shape that is not in it."""
    rng = np.random.default_rng((seed, limit))
    for sample in draw_samples(seed, limit):
        yield MaskQuestion(sample.scene, partial(_same, sample.image), sample.expression, sample.truth)
        shapes = {str(one.kind.shape) for one in draw_scene(scene_seed(seed, sample.scene)).objects}
        others = sorted(set(SHAPES) - shapes)
        if absent and others:
            name = f"the {others[rng.integers(len(others))]}"
            yield MaskQuestion(sample.scene, partial(_same, sample.image), name, None)


def truth_hash(questions: Sequence[MaskQuestion]) -> str:
    """Hash which pictures are asked about, the words and the true masks; 12 hexadecimal digits of SHA-256."""
    found = hashlib.sha256()
    for one in questions:
        counts = b"" if one.truth is None else pack(one.truth).counts
        found.update(f"{one.picture} {one.words} {len(counts)} ".encode() + counts)
    return found.hexdigest()[:12]


_Photo = tuple[int, Callable[[], Image.Image], dict[str, BoolArray], frozenset[str]]
"""A photo's number, what opens it, the masks of its large classes, and all its classes."""


def _mini(folder: Path, seed: int, left_out: LeftOut) -> Iterator[_Photo]:
    masks: dict[int, dict[str, BoolArray]] = {}
    photos = {}
    for noun in nouns(folder, read_photos(folder), seed, left_out):
        photos[noun.photo.id] = noun.photo
        masks.setdefault(noun.photo.id, {})[noun.name] = noun.truth
    for number, photo in photos.items():
        yield number, partial(open_image, photo.file), masks[number], frozenset(photo.objects)


def _coco(folder: Path, left_out: LeftOut) -> Iterator[_Photo]:
    data: dict[str, Any] = read_json(folder / "instances.json")
    names = {one["id"]: one["name"] for one in data["categories"]}
    by_photo: dict[int, list[dict[str, Any]]] = {}
    for entry in data["annotations"]:
        by_photo.setdefault(entry["image_id"], []).append(entry)
    for photo in sorted(data["images"], key=lambda one: one["id"]):
        file = folder / "images" / photo["file_name"]
        opened = attempt_one(partial(open_image, file))
        if isinstance(opened, GroundingError):
            left_out(file, opened)
            continue
        masks: dict[str, BoolArray] = {}
        for entry in by_photo.get(photo["id"], []):
            mask = decode(entry["segmentation"], photo["height"], photo["width"])
            name = names[entry["category_id"]]
            masks[name] = masks.get(name, np.zeros_like(mask)) | mask
        large = {name: _fitted(mask, opened.size) for name, mask in sorted(masks.items()) if mask.mean() >= MIN_AREA}
        yield int(photo["id"]), partial(open_image, file), large, frozenset(masks)


def _fitted(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    if mask.shape == size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _same(image: Image.Image) -> Image.Image:
    return image
