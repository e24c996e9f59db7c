"""Selection of one mask out of a segmenter's candidates, and refinement in three calls.

A single point is ambiguous: SAM answers with a part, a larger part and the whole object. Two scores can decide: the
segmenter's own estimate of each mask's IoU, and the agreement of each mask with the heat map the point came from.
This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from grounding.errors import SegmenterError
from grounding.geometry import cell_coverage, tight_box
from grounding.segmenters.specks import without_specks
from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts, Segment

if TYPE_CHECKING:
    from grounding.segmenters.base import MaskCandidates, Segmenter

Choice = Literal["iou", "agreement", "both"]
Measure = Literal["pearson", "soft_iou", "consistency"]


@dataclass(frozen=True)
class MaskRule:
    """Rule that selects one mask out of several; a method file's `mask` sets the fields.

    Attributes:
        choice: `iou`: the segmenter's estimate; `agreement`: agreement with the heat map; `both`: the product of the
            two, each clipped to [0, 1].
        measure: measure of agreement; see `agreement`.
        cascade: refine in three calls (`refine_masks`) instead of one.
        whole_share: a mask that covers more than this share of the image counts as a mask of the whole image.
        whole_penalty: fraction by which (score + 1) of a whole-image mask is reduced, in [0, 1]; 0 disables it.
        multimask: request three masks; False requests the single one. The cascade has its own calls.
        specks: islands and holes of less than this share of the chosen mask are removed, by default of less than 1 %; 0
            keeps them. See `without_specks`.

    Raises:
        SegmenterError: an unknown choice or measure, or a share outside [0, 1].

    Notes:
        The product is our choice; DecAF (arXiv 2510.19592) averages three such scores instead. So are the share and
        the penalty of whole-image masks; on 40 COCO objects, one point inside each, MobileSAM's mean IoU was the same
        with and without them. So is the size of specks. On 150 nouns of photos their removal at a share of 0.01
        raised MobileSAM's mean IoU by 0.001; on 100 drawn scenes it lowered oIoU by 0.001, through one mask of the
        background, where a small object is the hole in it. Methods for drawn scenes and those of papers, which clean no
        mask, keep specks.
    """

    choice: Choice = "both"
    measure: Measure = "pearson"
    cascade: bool = False
    whole_share: float = 0.9
    whole_penalty: float = 0.5
    multimask: bool = True
    specks: float = 0.01

    def __post_init__(self) -> None:
        if self.choice not in ("iou", "agreement", "both"):
            raise SegmenterError(f"mask choice {self.choice!r} is not known: choose iou, agreement or both")
        if self.measure not in MEASURES:
            raise SegmenterError(f"agreement measure {self.measure!r} is not known: choose {', '.join(MEASURES)}")
        shares = (self.whole_share, self.whole_penalty, self.specks)
        if not all(0 <= share <= 1 for share in shares):
            raise SegmenterError(
                f"whole_share, whole_penalty and specks are shares in [0, 1], got {', '.join(map(str, shares))}"
            )

    def scores(self, candidates: MaskCandidates, heatmap: Heatmap | None = None) -> FloatArray:
        """Score every candidate.

        Args:
            candidates: M masks of one prompt.
            heatmap: the map the prompt came from; required by choices other than `iou`.

        Returns:
            [M] float32, higher is better; -1 for an empty mask.

        Raises:
            SegmenterError: the rule needs a heat map and there is none.
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
        # Scores start at -1, so (score + 1) is scaled; scaling a negative score itself would raise it.
        values = np.where(share > self.whole_share, (values + 1) * (1 - self.whole_penalty) - 1, values)
        return np.where(share == 0, -1.0, values).astype(np.float32)


def select_mask(candidates: MaskCandidates, heatmap: Heatmap | None = None, rule: Choice | MaskRule = "iou") -> int:
    """Select the best mask.

    Args:
        candidates: M masks of one prompt.
        heatmap: the map the prompt came from; required by choices other than `iou`.
        rule: a choice, or a rule with its numbers.

    Returns:
        Its index; among equal scores the segmenter's estimate decides.

    Raises:
        SegmenterError: an unknown rule, or one that needs a heat map without one.
    """
    scores = _as_rule(rule).scores(candidates, heatmap)
    return int(max(range(len(scores)), key=lambda m: (scores[m], candidates.scores[m])))


def agreement(mask: BoolArray, heatmap: Heatmap, measure: Measure = "pearson") -> float:
    """Measure how well a mask covers what the heat map shows.

    Let v be a pixel's value in the map (constant within a cell) and m its value in the mask (0 or 1). Sums over pixels
    are computed over cells, weighted by the share of each cell that the mask covers, which is exact for any pair of
    sizes. The shares themselves are not correlated with v: a sliver inside the one hot cell would correlate fully.

    `pearson`: correlation of m and v, in [-1, 1]; 0 where either is constant. Invariant to the map's offset and scale.
        SteerSeg (arXiv 2605.14908) selects tracklets by it.
    `soft_iou`: sum min(m, v) / sum max(m, v), in [0, 1].
    `consistency`: attention consistency of DecAF (arXiv 2510.19592, published code), in (-inf, 1]: cells not above the
        mean count as minus the largest value, giving v'; then sum m v' / sum of v above the mean.

    Args:
        mask: bool [H, W] in the original image's size.
        heatmap: map over the same image.
        measure: which of the three.

    Returns:
        The agreement; 0 for a constant map.

    Notes:
        `soft_iou` is our own measure.
    """
    return MEASURES[measure](cell_coverage(mask, heatmap.values.shape), heatmap.values.astype(np.float64))


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


def refine_masks(
    segmenter: Segmenter, prompts: PointPrompts, heatmap: Heatmap | None = None, rule: Choice | MaskRule = "iou"
) -> MaskCandidates:
    """Predict masks in three calls, each with the previous mask as a further prompt.

    PerSAM (Zhang et al., ICLR 2024, arXiv 2305.03048, "cascaded post-refinement" and its code): (0) the points, single
    mask; (1) the points and the logits of (0), three masks; (2) the points, the logits of the best mask of (1) and its
    tight box, three masks. The box replaces the prompt's own.

    Args:
        segmenter: segmenter with an image set.
        prompts: points and optionally a box, in pixels of that image.
        heatmap: the map the prompt came from; required by choices other than `iou`.
        rule: rule that selects the mask of (1).

    Returns:
        The masks of (2), or those of (1) if the selected one is empty.

    Raises:
        SegmenterError: see `predict_mask`.

    Notes:
        PerSAM selects by the segmenter's score; selecting by the heat map is our choice.
    """
    first = segmenter.predict(prompts, multimask_output=False)
    second = segmenter.predict(prompts, mask_input=first.low_res_logits[0])
    best = select_mask(second, heatmap, rule)
    if not second.masks[best].any():
        return second
    boxed = replace(prompts, box_xyxy=tight_box(second.masks[best]))
    return segmenter.predict(boxed, mask_input=second.low_res_logits[best])


def predict_mask(
    segmenter: Segmenter,
    prompts: PointPrompts,
    heatmap: Heatmap | None = None,
    rule: Choice | MaskRule = "iou",
    label: str = "",
) -> Segment:
    """Predict one mask for one prompt.

    Args:
        segmenter: segmenter with an image set.
        prompts: points and optionally a box, in pixels of that image.
        heatmap: the map the prompt came from; required by choices other than `iou`.
        rule: rule that selects the mask, and says whether it is refined.
        label: the words the mask stands for.

    Returns:
        The segment; `agreement` is set if a heat map is given, whatever the rule.

    Raises:
        SegmenterError: no image set, an unknown rule, a rule without its heat map, or out of memory.
    """
    rule = _as_rule(rule)
    candidates = predict_candidates(segmenter, prompts, heatmap, rule)
    return selected_segment(candidates, prompts, heatmap, rule, label)


def predict_candidates(
    segmenter: Segmenter, prompts: PointPrompts, heatmap: Heatmap | None, rule: MaskRule
) -> MaskCandidates:
    """Predict the masks that the rule selects from; see `predict_mask`."""
    if rule.cascade:
        return refine_masks(segmenter, prompts, heatmap, rule)
    return segmenter.predict(prompts, multimask_output=rule.multimask)


def selected_segment(
    candidates: MaskCandidates, prompts: PointPrompts, heatmap: Heatmap | None, rule: MaskRule, label: str = ""
) -> Segment:
    """Make the segment of the candidate that the rule selects; see `predict_mask`."""
    best = select_mask(candidates, heatmap, rule)
    mask = without_specks(candidates.masks[best], rule.specks)
    return Segment(
        mask=mask,
        score=float(candidates.scores[best]),
        points=prompts,
        label=label,
        agreement=None if heatmap is None else agreement(mask, heatmap, rule.measure),
    )


def _as_rule(rule: Choice | MaskRule) -> MaskRule:
    return rule if isinstance(rule, MaskRule) else MaskRule(rule)
