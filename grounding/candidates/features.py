"""What the choice among candidates is made of: how each mask agrees with the heat map, and what it is by itself.

Let v be the map's value in a cell and c the share of the cell that the mask covers. Sums run over cells, so they are
exact sums over pixels of a map that is constant within a cell.

    agreement       correlation of map and mask, as in `grounding.segmenters.mask_selection.agreement`
    contrast        mean of v inside the mask, less its mean outside
    mass            share of the map's sum inside the mask
    concentration   log2 of (mass / share of the picture that the mask covers), cut to [-4, 4]
    soft_iou        sum of min(m, v) over sum of max(m, v)
    peak            share of the map's largest cell that the mask covers
    estimate        the segmenter's own estimate of its IoU, cut to [0, 1]
    consensus       mean IoU with the other candidates: what several prompts lead to
    size            log2 of the share of the picture that the mask covers, at least -10
    fill            share of its tight box that the mask covers
    border          share of the picture's four borders that it touches

Notes:
    The list is our own. `agreement` and `consensus` have precedents: SteerSeg (arXiv 2605.14908) chooses tracklets by
    correlation, and PinPoint (arXiv 2605.26689) reports that points on which several cues agree make better masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from grounding.geometry import cell_coverage
from grounding.run_lengths import PackedMask, overlaps
from grounding.segmenters.mask_selection import MEASURES
from grounding.types import FloatArray, Heatmap

FEATURES = (
    "agreement",
    "contrast",
    "mass",
    "concentration",
    "soft_iou",
    "peak",
    "estimate",
    "consensus",
    "size",
    "fill",
    "border",
)
LOWEST_SIZE = -10.0
MOST_CONCENTRATED = 4.0


def measure(masks: Sequence[PackedMask], estimates: Sequence[float], heatmap: Heatmap) -> FloatArray:
    """Measure the features of every candidate.

    Args:
        masks: N masks of one picture, none of them empty.
        estimates: the segmenter's estimate of each mask's IoU.
        heatmap: the map of the words.

    Returns:
        [N, len(FEATURES)] float32, columns in the order of `FEATURES`.
    """
    values = heatmap.values.astype(np.float64)
    between = overlaps(masks)
    others = max(len(masks) - 1, 1)
    agreed = (between.sum(axis=1) - np.diag(between)) / others
    rows = [
        (*_with_map(mask, values), float(np.clip(estimate, 0, 1)), float(consensus), *_alone(mask))
        for mask, estimate, consensus in zip(masks, estimates, agreed, strict=True)
    ]
    return np.array(rows, np.float32).reshape(len(masks), len(FEATURES))


def _with_map(mask: PackedMask, v: npt.NDArray[Any]) -> tuple[float, ...]:
    c: npt.NDArray[Any] = cell_coverage(mask.mask, v.shape).astype(np.float64)
    covered, total, inside = float(c.sum()), float(v.sum()), float((c * v).sum())
    mass = inside / total if total > 0 else 0.0
    rest = c.size - covered
    outside = (total - inside) / rest if rest > 1e-9 else 0.0
    share = covered / c.size
    concentration = np.log2(max(mass, 1e-9) / max(share, 1e-9))
    return (
        MEASURES["pearson"](c, v),
        inside / covered - outside if covered > 0 else 0.0,
        mass,
        float(np.clip(concentration, -MOST_CONCENTRATED, MOST_CONCENTRATED)),
        MEASURES["soft_iou"](c, v),
        float(c.flat[int(np.argmax(v))]),
    )


def _alone(mask: PackedMask) -> tuple[float, float, float]:
    height, width = mask.size
    x0, y0, x1, y1 = mask.box_xyxy
    fill = mask.area / max((x1 - x0) * (y1 - y0), 1.0)
    border = (x0 <= 0, y0 <= 0, x1 >= width, y1 >= height)
    return max(float(np.log2(max(mask.share, 1e-9))), LOWEST_SIZE), fill, sum(border) / 4
