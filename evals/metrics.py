"""Does the point lie on the object, and does the mask cover it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grounding.types import BoolArray, PointPrompts, Segment


@dataclass(frozen=True)
class Outcome:
    """One answer against the truth, in counts that can be summed.

    Attributes:
        hit: whether the best point lies in the target's mask.
        intersection: pixels that both masks have.
        union: pixels that one of them has.
        failed: whether the method gave up, which counts as a miss and an empty mask.
    """

    hit: bool
    intersection: int
    union: int
    failed: bool = False

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]; 0 where both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


def judge(points: PointPrompts, segment: Segment, truth: BoolArray) -> Outcome:
    """An answer's outcome.

    Args:
        points: what the segmenter was asked.
        segment: its mask, [H, W].
        truth: the target's mask, bool [H, W].
    """
    return Outcome(
        hit=best_point_hits(points, truth),
        intersection=int((segment.mask & truth).sum()),
        union=int((segment.mask | truth).sum()),
    )


def gave_up(truth: BoolArray) -> Outcome:
    """The outcome of no answer at all."""
    return Outcome(hit=False, intersection=0, union=int(truth.sum()), failed=True)


def best_point_hits(points: PointPrompts, truth: BoolArray) -> bool:
    """Whether the point of label 1 with the largest weight lies in the mask.

    Of equal weights the first counts. A point (x, y) lies in the pixel [floor(y), floor(x)]; one on the image's far
    border in the last pixel. Without a point of label 1 the answer is no.
    """
    positive = np.flatnonzero(points.label == 1)
    if len(positive) == 0:
        return False
    x, y = points.xy[positive[int(np.argmax(points.weight[positive]))]]
    height, width = truth.shape
    return bool(truth[int(np.clip(np.floor(y), 0, height - 1)), int(np.clip(np.floor(x), 0, width - 1))])
