"""Score one answer against the true mask: whether the point lies on the object, and the IoU of the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grounding.types import BoolArray, PointPrompts, Segment


@dataclass(frozen=True)
class Outcome:
    """Counts of one answer against the truth, to be summed over answers.

    Attributes:
        hit: whether the best point lies in the target's mask.
        intersection: pixels in both masks.
        union: pixels in either mask.
        failed: whether the method gave no answer, which counts as a miss and an empty mask.
    """

    hit: bool
    intersection: int
    union: int
    failed: bool = False

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]; 0 if both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


def judge(points: PointPrompts, segment: Segment | None, truth: BoolArray) -> Outcome:
    """Score an answer.

    Args:
        points: the point prompt.
        segment: the segmenter's answer, mask [H, W]; None where nothing fits, which is an empty mask.
        truth: the target's mask, bool [H, W].
    """
    if segment is None:
        return Outcome(best_point_hits(points, truth), 0, int(truth.sum()))
    return Outcome(
        hit=best_point_hits(points, truth),
        intersection=int((segment.mask & truth).sum()),
        union=int((segment.mask | truth).sum()),
    )


def gave_up(truth: BoolArray) -> Outcome:
    """Score a missing answer."""
    return Outcome(hit=False, intersection=0, union=int(truth.sum()), failed=True)


def best_point_hits(points: PointPrompts, truth: BoolArray) -> bool:
    """Whether the point of label 1 with the largest weight lies in the mask.

    Of equal weights the first counts. A point (x, y) lies in the pixel [floor(y), floor(x)], a point on the right or
    bottom border in the last pixel. False without a point of label 1.
    """
    positive = np.flatnonzero(points.label == 1)
    if len(positive) == 0:
        return False
    x, y = points.xy[positive[int(np.argmax(points.weight[positive]))]]
    height, width = truth.shape
    return bool(truth[int(np.clip(np.floor(y), 0, height - 1)), int(np.clip(np.floor(x), 0, width - 1))])
