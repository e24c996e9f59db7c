"""All masks of a picture without words: a grid of points, each a prompt of its own, then filters.

Kirillov et al., "Segment Anything" (ICCV 2023), section 5 and appendix B, "automatically generating object proposals":
every point of a regular grid predicts three masks; those with a low estimate, those that depend on the threshold they
are cut at, and doubles are dropped. The picture is encoded once, and points are decoded in batches.

Notes:
    Our choices. Stability is measured on the decoder's own logits instead of on the enlarged ones, so that a dropped
    mask is never enlarged. The paper's second grids on enlarged crops are left out. The paper's numbers (32 points a
    side, 0.88, 0.95) were chosen for SAM's largest encoder; a coarser grid and lower bars keep small models and CPUs
    useful. Masks of nearly the whole picture are dropped.

This module does not import torch before it runs a segmenter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from grounding.errors import SegmenterError
from grounding.run_lengths import PackedMask, pack
from grounding.segmenters.suppression import suppress_boxes
from grounding.types import BoolArray, FloatArray, PointPrompts

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from grounding.segmenters.base import BatchSegmenter, Segmenter

BATCH, CPU_BATCH = 64, 4


@dataclass(frozen=True)
class AutomaticMasks:
    """How the masks of a picture are proposed.

    Attributes:
        side: points along each side of the grid; side * side prompts are decoded.
        least_estimate: masks with a lower estimate of their own IoU are dropped.
        least_stability: masks with a lower stability are dropped; see `stability`.
        offset: of the two thresholds that stability compares, in logits.
        box_iou: of two masks whose boxes overlap by more than this IoU, the one with the lower estimate is dropped.
        whole_share: masks of more than this share of the picture are dropped.
        batch: points decoded at once; 0 is 64, and 4 on a CPU, where larger batches take longer per point.

    Raises:
        SegmenterError: a number is out of its range.
    """

    side: int = 16
    least_estimate: float = 0.8
    least_stability: float = 0.85
    offset: float = 1.0
    box_iou: float = 0.7
    whole_share: float = 0.95
    batch: int = 0

    def __post_init__(self) -> None:
        if self.side < 1 or self.batch < 0 or self.offset < 0:
            raise SegmenterError(
                f"automatic masks need side >= 1, batch >= 0 and offset >= 0, got {self.side}, {self.batch}, "
                f"{self.offset}"
            )
        shares = (self.least_estimate, self.least_stability, self.box_iou, self.whole_share)
        if not all(0 <= share <= 1 for share in shares):
            raise SegmenterError(
                "least_estimate, least_stability, box_iou and whole_share of automatic masks lie in [0, 1], got "
                + ", ".join(map(str, shares))
            )

    def __call__(self, segmenter: Segmenter, size: tuple[int, int]) -> tuple[ProposedMask, ...]:
        """Propose masks of the picture that the segmenter has encoded.

        Args:
            segmenter: with an image set.
            size: (width, height) of that image.

        Returns:
            The masks, highest estimate first; none where every one is filtered.

        Raises:
            SegmenterError: no image was set, or the device ran out of memory.
        """
        found = [one for points in self._batches(segmenter, grid(self.side, size)) for one in points]
        keep = suppress_boxes(
            [one.packed.box_xyxy for one in found], np.array([one.score for one in found]), self.box_iou
        )
        return tuple(found[index] for index in keep)

    def _batches(self, segmenter: Segmenter, xy: FloatArray) -> Iterator[list[ProposedMask]]:
        from grounding.segmenters.base import BatchSegmenter

        if not isinstance(segmenter, BatchSegmenter):
            yield from (self._one_by_one(segmenter, point) for point in xy)
            return
        count = self.batch or (CPU_BATCH if segmenter.device.type == "cpu" else BATCH)
        for start in range(0, len(xy), count):
            yield self._decoded(segmenter, xy[start : start + count])

    def _decoded(self, segmenter: BatchSegmenter, xy: FloatArray) -> list[ProposedMask]:
        """The masks of a batch of points that pass the filters, decoded together."""
        logits, scores = segmenter.decode([at_point(point) for point in xy])
        steady = stability(logits, self.offset)
        good = (scores >= self.least_estimate) & (steady >= self.least_stability)
        if not good.any():
            return []
        of_point = np.nonzero(good.cpu().numpy())[0]
        masks = segmenter.enlarge(logits[good])
        return self._proposed(masks, scores[good].cpu().numpy(), steady[good].cpu().numpy(), xy[of_point])

    def _one_by_one(self, segmenter: Segmenter, point: FloatArray) -> list[ProposedMask]:
        """The same by `Segmenter.predict`, for a segmenter of another package."""
        import torch

        found = segmenter.predict(at_point(point))
        steady = stability(torch.as_tensor(found.low_res_logits), self.offset).numpy()
        good = (found.scores >= self.least_estimate) & (steady >= self.least_stability)
        return self._proposed(found.masks[good], found.scores[good], steady[good], np.tile(point, (good.sum(), 1)))

    def _proposed(self, masks: BoolArray, scores: FloatArray, steady: FloatArray, xy: FloatArray) -> list[ProposedMask]:
        return [
            ProposedMask(pack(mask), float(score), float(firm), (float(point[0]), float(point[1])))
            for mask, score, firm, point in zip(masks, scores, steady, xy, strict=True)
            if 0 < mask.mean() <= self.whole_share
        ]


@dataclass(frozen=True)
class ProposedMask:
    """One of a picture's masks.

    Attributes:
        packed: the mask, not empty; packed, because a large picture has hundreds before the doubles are dropped.
        score: the segmenter's own estimate of its IoU, about [0, 1].
        stability: in [0, 1]; see `stability`.
        xy: the point that led to it, in pixels.
    """

    packed: PackedMask = field(repr=False)
    score: float
    stability: float
    xy: tuple[float, float]

    @property
    def mask(self) -> BoolArray:
        """The pixels, bool [H, W] in the image's size; unpacked at every call."""
        return self.packed.mask

    @property
    def prompt(self) -> PointPrompts:
        """The prompt that led to it."""
        return at_point(np.array(self.xy))


def automatic_masks(
    segmenter: Segmenter, image: Image.Image, settings: AutomaticMasks | None = None
) -> tuple[ProposedMask, ...]:
    """Encode a picture and propose its masks; see `AutomaticMasks`."""
    segmenter.set_image(image)
    return (settings or AutomaticMasks())(segmenter, image.size)


def grid(side: int, size: tuple[int, int]) -> FloatArray:
    """The centres (x, y) of side x side equal cells of an image (width, height), row by row: [side * side, 2]."""
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(steps * size[0], steps * size[1])
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def stability(logits: torch.Tensor, offset: float = 1.0) -> torch.Tensor:
    """How little a mask depends on the threshold it is cut at (Kirillov et al., appendix B).

    Args:
        logits: [..., h, w]; the mask is where they are positive.
        offset: half the distance of the two thresholds.

    Returns:
        [...] the IoU of the masks cut at +offset and at -offset, in [0, 1]; 0 where the larger one is empty.
    """
    inner = (logits > offset).sum((-2, -1)).float()
    outer = (logits > -offset).sum((-2, -1)).float()
    return inner / outer.clamp(min=1)


def at_point(xy: Sequence[float] | FloatArray) -> PointPrompts:
    """The prompt of one point (x, y) on the object."""
    return PointPrompts(np.asarray(xy, np.float32).reshape(1, 2), np.ones(1, np.int64), np.ones(1, np.float32))
