"""Average precision and recall of boxes and masks, by faster-coco-eval (the extra `eval`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from grounding.errors import MissingExtraError

Kind = Literal["bbox", "segm"]
KINDS: tuple[Kind, ...] = ("bbox", "segm")

COCO_LIMITS = (1, 10, 100)
LVIS_LIMITS = (1, 10, 300)
FIXED_LIMIT = 10_000
"""Most results of one category over the whole data for fixed AP; there is no limit per image."""
_SIZES = ("small", "medium", "large")
_GROUPS = ("rare", "common", "frequent")


@dataclass(frozen=True)
class Precision:
    """What an evaluator counted.

    Attributes:
        precision: [T, R, K, A, M] at IoU thresholds, recalls, categories, areas and limits; -1 where there is no truth.
        recall: [T, K, A, M].
        groups: category indices that are rare, common and frequent, in LVIS; else empty.
        limits: of results per image and category, ascending.
    """

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    groups: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...]

    def ap(
        self, iou: float | None = None, area: int = 0, limit: int = -1, categories: Sequence[int] | None = None
    ) -> float:
        """AP over thresholds or at one, over all sizes or of one; 0 where there is no truth."""
        chosen = self.precision[..., area, limit]
        return _mean(self._at(chosen if categories is None else chosen[:, :, list(categories)], iou))

    def ar(self, iou: float | None = None, area: int = 0, limit: int = -1) -> float:
        """AR over thresholds or at one."""
        return _mean(self._at(self.recall[..., area, limit], iou))

    @staticmethod
    def _at(values: npt.NDArray[np.float64], iou: float | None) -> npt.NDArray[np.float64]:
        return values if iou is None else values[[round((iou - 0.5) / 0.05)]]


def score_detections(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, float]:
    """Score results against a ground truth.

    Args:
        truth: `images`, `annotations` and `categories` as in COCO's files; or in LVIS's, where images have
            `neg_category_ids`.
        results: COCO results with masks and boxes; those of other images or categories do not count.
        kind: `bbox` or `segm`.

    Returns:
        In [0, 1]: AP (IoU 0.5 to 0.95), AP50, AP75, AP by size; fixed AP (Dave et al., arXiv 2102.01066: the 10,000
        best results of each category, without a limit per image); AR by results per image and by size; in LVIS also
        AP and fixed AP of rare, common and frequent categories.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    lvis = is_lvis(truth)
    limits = LVIS_LIMITS if lvis else COCO_LIMITS
    plain = evaluate(truth, results, kind, limits)
    fixed = evaluate(truth, best_per_category(results), kind, (FIXED_LIMIT,))
    scores = {"AP": plain.ap(), "AP50": plain.ap(0.5), "AP75": plain.ap(0.75)}
    scores |= {f"AP_{size}": plain.ap(area=at) for at, size in enumerate(_SIZES, 1)}
    scores |= {"fixed_AP": fixed.ap(), "fixed_AP50": fixed.ap(0.5)}
    if lvis:
        for at, group in enumerate(_GROUPS):
            scores |= {
                f"AP_{group}": plain.ap(categories=plain.groups[at]),
                f"fixed_AP_{group}": fixed.ap(categories=fixed.groups[at]),
            }
    scores |= {f"AR_{limit}": plain.ar(limit=at) for at, limit in enumerate(limits)}
    return scores | {f"AR_{size}": plain.ar(area=at) for at, size in enumerate(_SIZES, 1)}


def score_recall(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind) -> dict[str, float]:
    """Score recall without regard to categories, as CODA (Li et al., ECCV 2022) scores what has no class.

    Args:
        truth: see `score_detections`.
        results: COCO results of any category, also those whose name is no category.
        kind: `bbox` or `segm`.

    Returns:
        mAR (IoU 0.5 to 0.95), AR50 and AR75, each with up to 100 results per image.

    Notes:
        That VL-SAM's mAR has 100 results per image is our reading; the paper does not say.
    """
    found = evaluate(truth, results, kind, COCO_LIMITS, categories=False)
    return {"mAR": found.ar(), "AR50": found.ar(0.5), "AR75": found.ar(0.75)}


def evaluate(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Kind,
    limits: Sequence[int],
    *,
    categories: bool = True,
) -> Precision:
    """Run the evaluator.

    Args:
        truth: see `score_detections`.
        results: see there.
        kind: `bbox` or `segm`.
        limits: most results per image and category that are counted, each.
        categories: whether a result must have the category of the truth.
    """
    coco, evaluator_class = faster_coco_eval()
    lvis = is_lvis(truth) and categories
    annotations = [{"iscrowd": 0, **one, **({} if categories else {"category_id": 1})} for one in truth["annotations"]]
    known = truth["categories"] if categories else [{"id": 1, "name": "object"}]
    ids, names = {one["id"] for one in truth["images"]}, {one["id"] for one in known}
    mine: list[Mapping[str, Any]] = [
        {**one, **({} if categories else {"category_id": 1})}
        for one in results
        if one["image_id"] in ids and (not categories or one["category_id"] in names)
    ]
    if lvis:
        mine = _searched_for(truth, annotations, mine)
    shape = (len(truth["images"]), len(known))
    groups = tuple(
        tuple(at for at, one in enumerate(sorted(known, key=lambda one: one["id"])) if one.get("frequency") == letter)
        for letter in ("rcf" if lvis else "")
    )
    if not mine or not annotations or 0 in shape:
        return _nothing(annotations, known, limits, groups)
    if lvis:  # the evaluator asks for a frequency of each
        known = [{"frequency": "f", **one} for one in known]
    reference = coco({**truth, "annotations": annotations, "categories": list(known)}, use_deepcopy=True)
    found = evaluator_class(
        reference, reference.loadRes([dict(one) for one in mine]), kind, print_function=_silent, lvis_style=lvis
    )
    found.params.maxDets = list(limits)
    found.evaluate()
    found.accumulate()
    precision = np.asarray(found.eval["precision"], np.float64)
    recall = np.asarray(found.eval["recall"], np.float64)
    return Precision(precision, recall, groups, tuple(limits))


def best_per_category(results: Sequence[Mapping[str, Any]], limit: int = FIXED_LIMIT) -> list[Mapping[str, Any]]:
    """The best results of each category, in the order in which they were given."""
    of_category: dict[Any, list[int]] = defaultdict(list)
    for index, one in enumerate(results):
        of_category[one["category_id"]].append(index)
    kept: set[int] = set()
    for indices in of_category.values():
        kept.update(sorted(indices, key=lambda index: -float(results[index]["score"]))[:limit])
    return [one for index, one in enumerate(results) if index in kept]


def is_lvis(truth: Mapping[str, Any]) -> bool:
    """Whether a ground truth is LVIS's, which says of each image which categories it was searched for."""
    return any("neg_category_ids" in one for one in truth["images"])


def _searched_for(
    truth: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The results in whose image somebody looked for their category; the evaluator fails on images without any."""
    known = {one["id"]: set(one.get("neg_category_ids", ())) for one in truth["images"]}
    for one in annotations:
        known[one["image_id"]].add(one["category_id"])
    return [one for one in results if one["category_id"] in known[one["image_id"]]]


def _nothing(
    annotations: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], limits: Sequence[int], groups: Any
) -> Precision:
    """The counts without a result: 0 for each category that has truth of a size, -1 elsewhere."""
    order = {one["id"]: at for at, one in enumerate(sorted(known, key=lambda one: one["id"]))}
    recall = np.full((10, max(1, len(known)), 4, len(limits)), -1.0)
    bounds = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
    for one in annotations:
        for area, (low, high) in enumerate(bounds):
            if low <= one["area"] <= high and not one.get("iscrowd") and one["category_id"] in order:
                recall[:, order[one["category_id"]], area] = 0.0
    precision = np.repeat(recall[:, None], 101, axis=1)
    return Precision(precision, recall, groups, tuple(limits))


def _mean(values: npt.NDArray[np.float64]) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else 0.0


def _silent(*said: object) -> None:
    """Take what the evaluator prints."""


def faster_coco_eval() -> tuple[Any, Any]:
    """The package's classes of annotations and of the evaluator.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as missing:
        raise MissingExtraError("faster-coco-eval", "eval", "scoring boxes and masks") from missing
    return COCO, COCOeval_faster
