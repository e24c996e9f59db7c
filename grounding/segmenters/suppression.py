"""Non-maximum suppression: of several boxes or masks that overlap, the one with the best score stays.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grounding.geometry import Box
from grounding.run_lengths import PackedMask, overlaps
from grounding.types import FloatArray, IntArray


def suppress_boxes(boxes: Sequence[Box], scores: FloatArray, iou: float) -> IntArray:
    """Keep boxes greedily, best first; a box whose IoU with a kept one is above `iou` is dropped.

    Args:
        boxes: N times (x0, y0, x1, y1).
        scores: [N], higher is better.
        iou: in [0, 1]; 1 keeps all.

    Returns:
        [K] indices of the kept ones, best first.
    """
    import torch
    from torchvision.ops import nms

    if len(boxes) == 0:
        return np.zeros(0, np.int64)
    corners = torch.as_tensor(np.array(boxes, np.float32))
    return np.asarray(nms(corners, torch.as_tensor(np.asarray(scores, np.float32)), iou).numpy())


def suppress_masks(masks: Sequence[PackedMask], scores: FloatArray, iou: float) -> IntArray:
    """Keep masks greedily, best first; a mask whose IoU with a kept one is above `iou` is dropped.

    Args:
        masks: N masks of one picture.
        scores: [N], higher is better; of equal scores the first is better.
        iou: in [0, 1]; 1 keeps all.

    Returns:
        [K] indices of the kept ones, best first.
    """
    kept: list[int] = []
    between = overlaps(masks)
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if not (between[index, kept] > iou).any():
            kept.append(int(index))
    return np.array(kept, np.int64)
