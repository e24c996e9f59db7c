"""Masks as run lengths: many masks of one large picture in little memory, with their areas, boxes and overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from grounding.geometry import Box
from grounding.types import BoolArray, FloatArray


@dataclass(frozen=True)
class PackedMask:
    """A mask in COCO's compressed run lengths.

    Attributes:
        size: (H, W) in pixels.
        counts: the runs, down the columns.
    """

    size: tuple[int, int]
    counts: bytes

    @property
    def mask(self) -> BoolArray:
        """The pixels, bool [H, W]; unpacked at every call."""
        return np.asarray(coco_mask.decode(self._coco()), dtype=np.bool_)

    @property
    def area(self) -> int:
        """Pixels on the mask."""
        return int(coco_mask.area(self._coco()))

    @property
    def share(self) -> float:
        """Share of the picture that it covers, in [0, 1]."""
        return self.area / (self.size[0] * self.size[1])

    @property
    def box_xyxy(self) -> Box:
        """The tightest box (x0, y0, x1, y1) in pixels; zeros for an empty mask."""
        x, y, width, height = (float(side) for side in coco_mask.toBbox(self._coco()))
        return (x, y, x + width, y + height)

    def _coco(self) -> dict[str, Any]:
        return {"size": list(self.size), "counts": self.counts}


def pack(mask: BoolArray) -> PackedMask:
    """Pack a mask, bool [H, W]."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return PackedMask((mask.shape[0], mask.shape[1]), code["counts"])


def overlaps(masks: Sequence[PackedMask]) -> FloatArray:
    """IoU of every pair of masks, [N, N] float32; 0 for a pair of empty masks."""
    return _pairs(masks, [0] * len(masks))


def insides(masks: Sequence[PackedMask]) -> FloatArray:
    """Share of every mask [row] that lies in every other [column], [N, N] float32."""
    return _pairs(masks, [1] * len(masks))


def join(masks: Sequence[PackedMask]) -> PackedMask:
    """The union of at least one mask."""
    return PackedMask(masks[0].size, coco_mask.merge([one._coco() for one in masks])["counts"])


def _pairs(masks: Sequence[PackedMask], crowd: list[int]) -> FloatArray:
    if not masks:
        return np.zeros((0, 0), np.float32)
    codes = [one._coco() for one in masks]
    return np.asarray(coco_mask.iou(codes, codes, crowd), np.float32)
