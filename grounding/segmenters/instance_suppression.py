"""Non-maximum suppression of masks or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from grounding.errors import SegmenterError
from grounding.types import Segment

Overlap = Literal["mask", "box"]


def suppress_segments(
    segments: Sequence[Segment],
    scores: Sequence[float],
    threshold: float,
    overlap: Overlap = "mask",
    labels: Sequence[str] | None = None,
) -> tuple[int, ...]:
    """Keep the best of segments that overlap.

    Args:
        segments: masks of one picture.
        scores: one per segment.
        threshold: a segment goes where its IoU with a better one that is kept is above this, in [0, 1]; 1 keeps all.
        overlap: IoU of masks, or of their boxes.
        labels: one per segment; segments of different labels leave each other alone. All are alike where None.

    Returns:
        Indices of what is kept, best first; of equal scores the first one goes first.

    Raises:
        SegmenterError: the threshold is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise SegmenterError(f"a suppression threshold of {threshold} was given, expected an IoU in [0, 1]")
    if not segments:
        return ()
    ious = _ious(segments, overlap)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable").tolist()
    kept: list[int] = []
    for index in order:
        rivals = [one for one in kept if labels is None or labels[one] == labels[index]]
        if not any(ious[index, one] > threshold for one in rivals):
            kept.append(index)
    return tuple(kept)


def _ious(segments: Sequence[Segment], overlap: Overlap) -> np.ndarray:
    """[N, N] intersections over unions."""
    none = [0] * len(segments)
    if overlap == "box":
        boxes = np.array([one.box_xyxy for one in segments], np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return np.asarray(coco_mask.iou(boxes, boxes, none))
    codes = [coco_mask.encode(np.asfortranarray(one.mask, dtype=np.uint8)) for one in segments]
    return np.asarray(coco_mask.iou(codes, codes, none))
