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
    stability       how little the mask depends on its threshold, in [0, 1]; see `grounding.segmenters.automatic`
    consensus       mean IoU with the other candidates: what several prompts lead to
    holds           share of the other candidates that lie in it by at least 0.9: it is a whole of which they are parts
    held            share of the other candidates in which it lies by at least 0.9: it is a part
    size            log2 of the share of the picture that the mask covers, at least -10
    size_squared    its square; with `size`, which sizes are likely
    fill            share of its tight box that the mask covers
    connected       share of the mask in its largest connected part
    border          share of the picture's four borders that it touches
    edge            share of the picture's outermost pixels that it covers: much of them, and it is background

Notes:
    The list is our own. Parts and wholes, stability, edge and connectedness were added because, for nouns of photos,
    weights fitted with them chose better masks on photos left out. `agreement` and `consensus` have precedents:
    SteerSeg (arXiv 2605.14908) chooses tracklets by correlation, and PinPoint (arXiv 2605.26689) reports that points on
    which several cues agree make better masks. `stability` is Kirillov et al.'s ("Segment Anything", appendix B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from grounding.candidates.base import Candidate
from grounding.geometry import cell_coverage
from grounding.run_lengths import PackedMask, insides, overlaps
from grounding.segmenters.mask_selection import MEASURES
from grounding.types import BoolArray, FloatArray, Heatmap

FEATURES = (
    "agreement",
    "contrast",
    "mass",
    "concentration",
    "soft_iou",
    "peak",
    "estimate",
    "stability",
    "consensus",
    "holds",
    "held",
    "size",
    "size_squared",
    "fill",
    "connected",
    "border",
    "edge",
)
INSIDE = 0.9
LOWEST_SIZE = -10.0
MOST_CONCENTRATED = 4.0
_LONGEST = 256  # pixels of a mask's longer side when its parts are counted; more cost seconds on large photos


def measure(candidates: Sequence[Candidate], heatmap: Heatmap) -> FloatArray:
    """Measure the features of every candidate.

    Args:
        candidates: N of one picture.
        heatmap: the map of the words.

    Returns:
        [N, len(FEATURES)] float32, columns in the order of `FEATURES`.
    """
    values = heatmap.values.astype(np.float64)
    masks = [one.packed for one in candidates]
    others = max(len(masks) - 1, 1)
    agreed = (overlaps(masks).sum(axis=1) - 1) / others
    inside = insides(masks) >= INSIDE
    holds, held = ((inside.sum(axis=axis) - 1) / others for axis in (0, 1))
    rows = []
    for index, one in enumerate(candidates):
        mask = one.mask
        size = max(float(np.log2(max(one.packed.share, 1e-9))), LOWEST_SIZE)
        rows.append(
            (
                *_with_map(mask, values),
                float(np.clip(one.score, 0, 1)),
                one.stability,
                float(agreed[index]),
                float(holds[index]),
                float(held[index]),
                size,
                size**2,
                *_shape(one.packed, mask),
            )
        )
    return np.array(rows, np.float32).reshape(len(masks), len(FEATURES))


def _with_map(mask: BoolArray, v: npt.NDArray[Any]) -> tuple[float, ...]:
    c: npt.NDArray[Any] = cell_coverage(mask, v.shape).astype(np.float64)
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


def _shape(packed: PackedMask, mask: BoolArray) -> tuple[float, float, float, float]:
    height, width = mask.shape
    x0, y0, x1, y1 = packed.box_xyxy
    fill = packed.area / max((x1 - x0) * (y1 - y0), 1.0)
    border = (x0 <= 0, y0 <= 0, x1 >= width, y1 >= height)
    edge = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean()
    return fill, _connected(mask), sum(border) / 4, float(edge)


def _connected(mask: BoolArray) -> float:
    step = -(-max(mask.shape) // _LONGEST)
    parts, count = ndimage.label(mask[::step, ::step])
    if count <= 1:  # none: a mask so small that it lies between the pixels that were looked at
        return 1.0
    areas = np.bincount(parts.ravel())[1:]
    return float(areas.max() / areas.sum())
