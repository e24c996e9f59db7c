"""How good a segmenter is on real photos when it gets one good point: mean IoU on a folder in COCO format.

The point is the pixel deepest inside the annotated object, so the number is an upper bound for what a heat map's
point can reach with the same mask choice, and falls with everything the annotators call one object and a segmenter
calls a part.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import distance_transform_edt

from grounding.errors import GroundingError, OutputError
from grounding.faults import attempt_one
from grounding.files import read_json
from grounding.images import open_image
from grounding.segmenters.load import load_segmenter
from grounding.segmenters.mask_selection import MaskRule, predict_mask
from grounding.types import BoolArray, PointPrompts

MIN_AREA = 32 * 32
MEDIUM_AREA = 96 * 96


@dataclass(frozen=True)
class SegmenterMeasure:
    """What `measure_segmenter` found.

    Attributes:
        name: the segmenter.
        n: objects asked for.
        images: images they lie on.
        miou: mean IoU over the objects, in [0, 1].
        median_iou: median IoU.
        share_above_half: share of objects with an IoU above 0.5.
        miou_medium: mean over objects of 32^2 to 96^2 px (COCO's "medium"), nan where there is none.
        miou_large: mean over objects from 96^2 px, nan where there is none.
        encode_seconds: mean time to encode an image.
        ask_seconds: mean time to answer one prompt.
        min_area: smallest annotated area in px that was let in.
    """

    name: str
    n: int
    images: int
    miou: float
    median_iou: float
    share_above_half: float
    miou_medium: float
    miou_large: float
    encode_seconds: float
    ask_seconds: float
    min_area: int


def measure_segmenter(
    folder: str | Path,
    limit: int = 40,
    seed: int = 0,
    name: str = "mobile-sam",
    *,
    device: str = "auto",
    min_area: int = MIN_AREA,
    rule: MaskRule | None = None,
    cascade: bool = False,
    left_out: Callable[[Path, GroundingError], None] = lambda file, error: None,
) -> SegmenterMeasure:
    """Mean IoU of masks from the centre-most interior point of annotated objects.

    Objects are drawn at random from all that are no crowd, cover at least `min_area` px and lie on an image that is
    there; every image is encoded once.

    Args:
        folder: with `instances.json` (COCO format) and `images/`.
        limit: number of objects; all where there are fewer.
        seed: of the draw.
        name: see `load_segmenter`.
        device: see `load_segmenter`.
        min_area: smallest annotated area in px. The default is COCO's bound below which an object is "small".
        rule: how the mask is chosen; None is the segmenter's own estimate. There is no heat map here.
        cascade: ask three times, each time with the last answer as a hint.
        left_out: called with a picture that cannot be opened or encoded, and the error.

    Returns:
        The measurement.

    Raises:
        OutputError: no `instances.json` in the folder, or no object passes the filter.
        SegmenterError: the segmenter cannot be loaded.
    """
    folder = Path(folder)
    chosen = _draw(folder, limit, seed, min_area)
    segmenter = load_segmenter(name, device)
    ious: list[float] = []
    areas: list[int] = []
    encoding, asking, images = 0.0, 0.0, 0
    for file, objects in chosen.items():
        image = attempt_one(partial(open_image, file))
        start = time.perf_counter()
        if isinstance(image, GroundingError):
            left_out(file, image)
            continue
        refused = attempt_one(partial(segmenter.set_image, image))
        if refused is not None:
            left_out(file, refused)
            continue
        images, encoding = images + 1, encoding + time.perf_counter() - start
        for annotation in objects:
            truth = decode(annotation["segmentation"], image.height, image.width)
            start = time.perf_counter()
            segment = predict_mask(
                segmenter, deepest_point(truth), rule=replace(rule or MaskRule("iou", specks=0.0), cascade=cascade)
            )
            asking += time.perf_counter() - start
            ious.append(float((segment.mask & truth).sum() / (segment.mask | truth).sum()))
            areas.append(int(truth.sum()))
    if not images:
        raise OutputError(f"none of the {len(chosen)} pictures in {folder} can be used: get the complete folder")
    values, sizes = np.array(ious), np.array(areas)
    return SegmenterMeasure(
        name=name,
        n=len(values),
        images=images,
        miou=float(values.mean()),
        median_iou=float(np.median(values)),
        share_above_half=float((values > 0.5).mean()),
        miou_medium=_mean(values[sizes < MEDIUM_AREA]),
        miou_large=_mean(values[sizes >= MEDIUM_AREA]),
        encode_seconds=encoding / images,
        ask_seconds=asking / len(values),
        min_area=min_area,
    )


def deepest_point(mask: BoolArray) -> PointPrompts:
    """The centre of the pixel that lies deepest inside a mask (the image's border counts as outside).

    Args:
        mask: bool [H, W] with at least one pixel.
    """
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return PointPrompts(
        xy=np.array([[column + 0.5, row + 0.5]], dtype=np.float32),
        label=np.ones(1, dtype=np.int64),
        weight=np.ones(1, dtype=np.float32),
    )


def decode(segmentation: list[list[float]] | dict[str, Any], height: int, width: int) -> BoolArray:
    """A COCO segmentation (polygons, or RLE compressed or not) as a bool [H, W] mask."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def _draw(folder: Path, limit: int, seed: int, min_area: int) -> dict[Path, list[dict[str, Any]]]:
    """The drawn annotations by image file."""
    file = folder / "instances.json"

    def refuse(wrong: OSError | ValueError) -> OutputError:
        reason = wrong.strerror if isinstance(wrong, OSError) else wrong
        return OutputError(f"{file} cannot be read ({reason}); expected a COCO instances.json beside a folder images/")

    data = read_json(file, refuse)
    paths = {image["id"]: folder / "images" / image["file_name"] for image in data["images"]}
    there = {key: path for key, path in paths.items() if path.is_file()}
    eligible = [
        annotation
        for annotation in data["annotations"]
        if annotation["image_id"] in there and not annotation.get("iscrowd") and annotation["area"] >= min_area
    ]
    if not eligible:
        raise OutputError(
            f"{file} has no object of at least {min_area} px on an image in {folder / 'images'}: lower min_area"
        )
    eligible.sort(key=lambda annotation: annotation["id"])
    picks = np.random.default_rng(seed).permutation(len(eligible))[:limit]
    drawn: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for pick in sorted(picks.tolist()):
        drawn[there[eligible[pick]["image_id"]]].append(eligible[pick])
    return dict(drawn)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
