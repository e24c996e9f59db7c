"""Choose one of a segmenter's candidate masks, and refine it by asking again.

A single point is ambiguous: SAM answers with a part, a larger part and the whole. Two measures can decide: the
segmenter's own estimate of each mask's IoU, and how well the mask agrees with the heat map that the point came from.
The cascade is PerSAM's. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from grounding.errors import SegmenterError
from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts, Segment

if TYPE_CHECKING:
    from grounding.segmenters.base import MaskCandidates, Segmenter

Choice = Literal["iou", "agreement", "both"]
Measure = Literal["pearson", "soft_iou", "consistency"]


@dataclass(frozen=True)
class MaskRule:
    """Choose one mask among several candidates; a method file's `mask` sets the fields.

    Attributes:
        choice: `iou`: the segmenter's estimate; `agreement`: agreement with the heat map; `both`: their product, each
            clipped to [0, 1].
        measure: how agreement is measured, see `agreement`.
        cascade: refine in three calls, see `refine`, instead of asking once.
        whole_share: a mask that covers more than this share of the image counts as the whole image.
        whole_penalty: what such a mask's score, counted from -1, loses of itself; 0 switches the penalty off.
        multimask: ask for three masks; False asks for a single one. The cascade has its own calls.

    Notes:
        The product, the share and the penalty are our choices. DecAF (arXiv 2510.19592) averages three such scores.
        With a point deep inside each of 40 COCO objects MobileSAM's mean IoU was the same with and without penalty.
    """

    choice: Choice = "both"
    measure: Measure = "pearson"
    cascade: bool = False
    whole_share: float = 0.9
    whole_penalty: float = 0.5
    multimask: bool = True

    def __post_init__(self) -> None:
        if self.choice not in ("iou", "agreement", "both"):
            raise SegmenterError(f"mask choice {self.choice!r} is not known: choose iou, agreement or both")
        if self.measure not in MEASURES:
            raise SegmenterError(f"agreement measure {self.measure!r} is not known: choose {', '.join(MEASURES)}")
        if not (0 <= self.whole_share <= 1 and 0 <= self.whole_penalty <= 1):
            raise SegmenterError(
                f"whole_share and whole_penalty are shares in [0, 1], got {self.whole_share} and {self.whole_penalty}"
            )

    def scores(self, candidates: MaskCandidates, heatmap: Heatmap | None = None) -> FloatArray:
        """[M] float32, the higher the better; an empty mask gets -1.

        Args:
            candidates: M masks of one prompt.
            heatmap: the map the prompt came from; choices other than `iou` need it.

        Raises:
            SegmenterError: the choice needs a heat map and there is none.
        """
        values = np.array(candidates.scores, dtype=np.float32)
        if self.choice != "iou":
            if heatmap is None:
                raise SegmenterError(
                    f"mask choice {self.choice!r} compares masks with a heat map: give one, or choose by iou"
                )
            agreements = np.array([agreement(m, heatmap, self.measure) for m in candidates.masks], dtype=np.float32)
            values = agreements if self.choice == "agreement" else np.clip(values, 0, 1) * np.clip(agreements, 0, 1)
        share = candidates.masks.mean(axis=(1, 2))
        # Counted from the lowest score, -1: multiplied as it is, a negative score would rise.
        values = np.where(share > self.whole_share, (values + 1) * (1 - self.whole_penalty) - 1, values)
        return np.where(share == 0, -1.0, values).astype(np.float32)


def choose(candidates: MaskCandidates, heatmap: Heatmap | None = None, rule: Choice | MaskRule = "iou") -> int:
    """Index of the best mask; between equal ones the segmenter's estimate decides.

    Args:
        candidates: M masks of one prompt.
        heatmap: the map the prompt came from; choices other than `iou` need it.
        rule: a choice, or a rule with its numbers.

    Raises:
        SegmenterError: an unknown rule, or one that needs a heat map where there is none.
    """
    scores = _as_rule(rule).scores(candidates, heatmap)
    return int(max(range(len(scores)), key=lambda m: (scores[m], candidates.scores[m])))


def agreement(mask: BoolArray, heatmap: Heatmap, measure: Measure = "pearson") -> float:
    """How well a mask covers what the heat map shows.

    Every pixel of a cell has the cell's value v, and m is 1 on the mask and 0 off it. Sums over pixels are taken over
    cells with the share of each that the mask covers, which is the same and exact for any pair of sizes. (Comparing
    the shares themselves would not do: a sliver inside the one hot cell would correlate fully.)

    `pearson`: correlation of m and v, in [-1, 1]. SteerSeg (arXiv 2605.14908) picks tracklets by it; blind to the
        map's offset and scale, which differ between methods. 0 where mask or map is constant.
    `soft_iou`: sum min(m, v) / sum max(m, v), in [0, 1]. Ours. Asks for a map that is 1 on the object and 0 off it.
    `consistency`: DecAF's attention consistency (arXiv 2510.19592, its published code): cells not above the mean
        count as minus the largest value, then sum m v' / sum of v above the mean, in (-inf, 1]. Hard on masks that
        reach into cold cells.

    Args:
        mask: bool [H, W] in the original image's size.
        heatmap: over the same image.
        measure: which of the three.

    Returns:
        The agreement; 0 for a constant map.
    """
    return MEASURES[measure](coverage(mask, heatmap.values.shape), heatmap.values.astype(np.float64))


def coverage(mask: BoolArray, shape: tuple[int, ...]) -> FloatArray:
    """Share of each cell that a mask covers.

    Args:
        mask: bool [H, W].
        shape: (h, w) equal cells laid over the whole mask.

    Returns:
        [h, w] float32 in [0, 1].
    """
    rows, columns = _overlap(shape[0], mask.shape[0]), _overlap(shape[1], mask.shape[1])
    return rows @ mask.astype(np.float32) @ columns.T


def _overlap(cells: int, pixels: int) -> FloatArray:
    """[cells, pixels] share of each cell's length that each pixel takes up; rows sum to 1."""
    edges = np.linspace(0, pixels, cells + 1)
    start = np.maximum(edges[:-1, None], np.arange(pixels))
    end = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return (np.clip(end - start, 0, None) * cells / pixels).astype(np.float32)


def _pearson(c: FloatArray, v: FloatArray) -> float:
    share = float(c.mean())
    scale = float(np.sqrt(max(share * (1 - share), 0.0)) * v.std())  # m is 0 or 1, so its variance is share (1 - share)
    return float(((c - share) * v).mean()) / scale if scale > 1e-9 else 0.0


def _soft_iou(c: FloatArray, v: FloatArray) -> float:
    union = float((c + v - c * v).sum())  # v <= 1 = m on the mask, v >= 0 = m off it
    return float((c * v).sum()) / union if union > 0 else 0.0


def _consistency(c: FloatArray, v: FloatArray) -> float:
    above = v > v.mean()
    mass = float(v[above].sum())
    return float((c * np.where(above, v, -v.max())).sum()) / mass if mass > 0 else 0.0


MEASURES: dict[str, Callable[[FloatArray, FloatArray], float]] = {
    "pearson": _pearson,
    "soft_iou": _soft_iou,
    "consistency": _consistency,
}


def refine(
    segmenter: Segmenter, prompts: PointPrompts, heatmap: Heatmap | None = None, rule: Choice | MaskRule = "iou"
) -> MaskCandidates:
    """Three calls, each with the last answer as a further hint.

    PerSAM (Zhang et al., ICLR 2024, arXiv 2305.03048, "cascaded post-refinement" and its code): (0) the points, single
    mask; (1) the points and the logits of (0), three masks; (2) the points, the logits of the best mask of (1) and the
    tight box around it, three masks. PerSAM takes the best by the segmenter's score; that the rule may use the map is
    ours. The box replaces one that the prompts came with.

    Args:
        segmenter: with an image set.
        prompts: points, perhaps a box.
        heatmap: the map the prompt came from; choices other than `iou` need it.
        rule: how the mask of (1) is chosen.

    Returns:
        The masks of (2), or those of (1) where its best mask is empty.
    """
    first = segmenter.segment(prompts, multimask=False)
    second = segmenter.segment(prompts, mask_logits=first.low_res_logits[0])
    best = choose(second, heatmap, rule)
    found = Segment(mask=second.masks[best], score=float(second.scores[best]), points=prompts)
    if not found.mask.any():
        return second
    boxed = replace(prompts, box_xyxy=found.box_xyxy)
    return segmenter.segment(boxed, mask_logits=second.low_res_logits[best])


def ask(
    segmenter: Segmenter,
    prompts: PointPrompts,
    heatmap: Heatmap | None = None,
    rule: Choice | MaskRule = "iou",
    label: str = "",
) -> Segment:
    """One mask for one prompt.

    Args:
        segmenter: with an image set.
        prompts: points and perhaps a box, in pixels of that image.
        heatmap: the map the prompt came from; choices other than `iou` need it.
        rule: how the mask is chosen, and whether it is refined.
        label: the words the mask stands for.

    Returns:
        The segment; its `agreement` is set wherever there is a heat map, whatever the rule.

    Raises:
        SegmenterError: no image set, an unknown rule, a rule without its heat map, or out of memory.
    """
    chosen = _as_rule(rule)
    if chosen.cascade:
        candidates = refine(segmenter, prompts, heatmap, chosen)
    else:
        candidates = segmenter.segment(prompts, multimask=chosen.multimask)
    best = choose(candidates, heatmap, chosen)
    mask = candidates.masks[best]
    return Segment(
        mask=mask,
        score=float(candidates.scores[best]),
        points=prompts,
        label=label,
        agreement=None if heatmap is None else agreement(mask, heatmap, chosen.measure),
    )


def _as_rule(rule: Choice | MaskRule) -> MaskRule:
    return rule if isinstance(rule, MaskRule) else MaskRule(rule)
