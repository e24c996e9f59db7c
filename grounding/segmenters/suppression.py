"""Non-maximum suppression of masks: of several that overlap, the one with the best score stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as rle
from torchvision.ops import nms

from grounding.geometry import Box
from grounding.types import BoolArray, FloatArray, IntArray


def suppress_boxes(boxes: Sequence[Box], scores: FloatArray, iou: float) -> IntArray:
    """Keep boxes greedily, best first; a box whose IoU with a kept one is above `iou` is dropped.

    Args:
        boxes: N times (x0, y0, x1, y1).
        scores: [N], higher is better.
        iou: in [0, 1]; 1 keeps all.

    Returns:
        [K] indices of the kept ones, best first.
    """
    if len(boxes) == 0:
        return np.zeros(0, np.int64)
    corners = torch.as_tensor(np.array(boxes, np.float32))
    return np.asarray(nms(corners, torch.as_tensor(np.asarray(scores, np.float32)), iou).numpy())


def suppress_masks(masks: BoolArray, scores: FloatArray, iou: float) -> IntArray:
    """Keep masks greedily, best first; a mask whose IoU with a kept one is above `iou` is dropped.

    Args:
        masks: bool [N, H, W].
        scores: [N], higher is better; of equal scores the first is better.
        iou: in [0, 1]; 1 keeps all.

    Returns:
        [K] indices of the kept ones, best first.
    """
    kept: list[int] = []
    overlap = mask_overlaps(masks)
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if not (overlap[index, kept] > iou).any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def mask_overlaps(masks: BoolArray) -> FloatArray:
    """IoU of every pair of masks [N, H, W], [N, N] float32; 0 for a pair of empty masks."""
    if len(masks) == 0:
        return np.zeros((0, 0), np.float32)
    lengths = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    return np.asarray(rle.iou(lengths, lengths, [0] * len(lengths)), np.float32)
