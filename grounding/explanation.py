"""Explain a mask: what every word attended to, what every stage made of it, and which of the candidates was taken.

An `Explanation` holds all of it as data; `grounding.viz_explanation` draws it, and `to_json` writes it as

    {
      "expression": "the red star", "source": "starter", "method": "starter",
      "direction": "word-to-image",           # or another; see `AttentionMaps.direction`
      "image_size": [width, height],          # pixels; every x and y below is in this frame, origin top left
      "words": [{                             # in the order of the recorded maps, special tokens included; of an
                                              # ensemble its models
        "word": "star", "span": [8, 12],      # characters of the expression; [0, 0] for a token outside of it
        "kind": "content", "head": true, "tokens": 1,
        "share": 0.31,                        # of the weights between all words and the image; the shares sum to 1
        "variation": 0.82,                    # of those weights over the image's cells: standard deviation / mean
        "weight": 0.5,                        # in the final map; the weights of kept words sum to 1
        "dropped": null,                      # or {"stage": "stop-words", "why": "stop word"}
        "map": [[...]]                        # [h][w] in [0, 1]
      }],
      "recorded": [[...]],                    # the map before the first stage: the mean over words, layers and heads
      "stages": [{
        "stage": "layers-select",
        "removed": 0.48,                      # share of the attention mass that the stage took away
        "moved": 0.12,                        # share of the map that lies elsewhere than before the stage
        "detail": "...", "data": {...},       # as in `StageReport`
        "map": [[...]]                        # [h][w] in [0, 1] after the stage
      }],
      "map": [[...]],                         # the heat map that points and masks were compared with
      "points": {"xy": [[x, y]], "label": [1], "weight": [1.0], "box_xyxy": null},
      "rule": "...",                          # how one candidate is chosen, in words
      "confidence": 0.71,                     # that the chosen one is right; null where none was fitted
      "candidates": [{                        # one is chosen, or none where nothing fits; of one prompt in the
                                              # segmenter's order, of several proposers' best first
        "origin": "the method's points",      # what led to it
        "segmentation": {...}, "area": 1234,  # COCO run lengths; pixels
        "estimated_iou": 0.93,                # the segmenter's own estimate
        "agreement": 0.71,                    # with the heat map, by the method's measure
        "score": 0.66,                        # by the method's rule: the largest is chosen
        "chosen": true, "why": "..."
      }]
    }

Maps of words and stages have one value for each of the model's cells, whatever the method's `compose` enlarges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounding.candidates.base import RankedCandidate
from grounding.candidates.rule import CandidateRule
from grounding.equality import ByValue
from grounding.io import encode_mask
from grounding.map_trace import MapTrace, WordTrace
from grounding.segmenters.mask_selection import MaskRule, agreement, select_mask
from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts

if TYPE_CHECKING:
    from grounding.segmenters.base import MaskCandidates


OWN_POINTS = "the method's points"


@dataclass(frozen=True, eq=False)
class CandidateTrace(ByValue):
    """One of the segmenter's masks, as the method's rule sees it.

    Attributes:
        mask: bool [H, W] in the image's size, specks included.
        estimated_iou: the segmenter's own estimate.
        agreement: with the heat map, by the rule's measure.
        score: by the rule; the largest is chosen.
        chosen: whether it was.
        why: the score in words.
        origin: what led to it, in words.
    """

    mask: BoolArray
    estimated_iou: float
    agreement: float
    score: float
    chosen: bool
    why: str
    origin: str = OWN_POINTS


@dataclass(frozen=True, eq=False)
class Explanation(ByValue):
    """How a mask came about.

    Attributes:
        expression: the words, as the source read them.
        source: the model's name.
        method: the method's name.
        trace: from recorded attention to the heat map.
        points: the segmenter's point prompts.
        rule: how one candidate is chosen, in words.
        candidates: the masks of one prompt in the segmenter's order, or the best of several prompts, best first.
        confidence: the probability that the chosen one is right; None where none was fitted.
    """

    expression: str
    source: str
    method: str
    trace: MapTrace
    points: PointPrompts
    rule: str
    candidates: tuple[CandidateTrace, ...]
    confidence: float | None = None

    @property
    def chosen(self) -> CandidateTrace | None:
        """The candidate that became the mask; None where nothing fits."""
        return next((one for one in self.candidates if one.chosen), None)

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON data; the keys are described at the top of this module."""
        trace, points = self.trace, self.points
        return {
            "expression": self.expression,
            "source": self.source,
            "method": self.method,
            "direction": trace.direction,
            "image_size": list(trace.map.image_size),
            "words": [_word(one) for one in trace.words],
            "recorded": _rounded(trace.recorded.values),
            "stages": [
                {
                    "stage": one.report.stage,
                    "removed": round(float(one.report.removed), 6),
                    "moved": round(one.moved, 6),
                    "detail": one.report.detail,
                    "data": one.report.data,
                    "map": _rounded(one.map.values),
                }
                for one in trace.stages
            ],
            "map": _rounded(trace.map.values),
            "points": {
                "xy": [[round(float(x), 2), round(float(y), 2)] for x, y in points.xy],
                "label": points.label.tolist(),
                "weight": [round(float(weight), 6) for weight in points.weight],
                "box_xyxy": None if points.box_xyxy is None else [round(side, 2) for side in points.box_xyxy],
            },
            "rule": self.rule,
            "confidence": None if self.confidence is None else round(self.confidence, 6),
            "candidates": [
                {
                    "origin": one.origin,
                    "segmentation": encode_mask(one.mask),
                    "area": int(one.mask.sum()),
                    "estimated_iou": round(one.estimated_iou, 6),
                    "agreement": round(one.agreement, 6),
                    "score": round(one.score, 6),
                    "chosen": one.chosen,
                    "why": one.why,
                }
                for one in self.candidates
            ],
        }


def trace_candidates(
    candidates: MaskCandidates, heatmap: Heatmap, rule: MaskRule, *, chosen: bool = True
) -> tuple[CandidateTrace, ...]:
    """Say of every candidate how the rule scores it.

    Args:
        candidates: the masks that the rule selected from.
        heatmap: the map they were compared with.
        rule: the method's.
        chosen: whether the best one was taken.
    """
    best = select_mask(candidates, heatmap, rule)
    scores = rule.scores(candidates, heatmap)
    found = []
    for index, (mask, estimate, score) in enumerate(zip(candidates.masks, candidates.scores, scores, strict=True)):
        agreed = agreement(mask, heatmap, rule.measure)
        why = _why(rule, float(estimate), agreed, float(score), float(mask.mean()))
        found.append(CandidateTrace(mask, float(estimate), agreed, float(score), chosen and index == best, why))
    return tuple(found)


def trace_ranking(ranking: Sequence[RankedCandidate], *, chosen: bool = True) -> tuple[CandidateTrace, ...]:
    """The candidates of several prompts, best first; the first is the chosen one where one was taken."""
    return tuple(
        CandidateTrace(
            mask=one.candidate.mask,
            estimated_iou=one.candidate.score,
            agreement=one.features["agreement"],
            score=one.score,
            chosen=chosen and place == 0,
            why=one.why,
            origin=one.candidate.origin,
        )
        for place, one in enumerate(ranking)
    )


def choice_in_words(candidates: CandidateRule, rule: MaskRule) -> str:
    """Say who proposes and how one candidate is chosen."""
    if candidates.kind == "points":
        return rule_in_words(rule)
    proposer = {
        "boxes": "the segmenter's masks of several prompts of the map",
        "auto": "the picture's own masks, from a grid of points",
        "sam3": f"the instances that {candidates.concepts} finds",
    }[candidates.kind]
    return f"of {proposer}, the one of the highest weighted sum of features is chosen{_cleaned(rule)}"


def _cleaned(rule: MaskRule) -> str:
    return f"; then specks below {rule.specks:.0%} are removed" if rule.specks else ""


def rule_in_words(rule: MaskRule) -> str:
    """Say how a rule chooses."""
    measure = "" if rule.measure == "pearson" else f" ({rule.measure})"
    by = {
        "iou": "the segmenter's estimate",
        "agreement": f"the agreement with the map{measure}",
        "both": f"the segmenter's estimate × the agreement with the map{measure}",
    }[rule.choice]
    calls = " of the last of three calls" if rule.cascade else ""
    return f"the highest score{calls} is chosen: {by}{_cleaned(rule)}"


def _why(rule: MaskRule, estimate: float, agreed: float, score: float, share: float) -> str:
    if share == 0:
        return "the mask is empty"
    plain = {
        "iou": f"estimate {estimate:.2f}",
        "agreement": f"agreement {agreed:.2f}",
        "both": f"{min(max(estimate, 0), 1):.2f} × {min(max(agreed, 0), 1):.2f} = {score:.2f}",
    }[rule.choice]
    if share > rule.whole_share and rule.whole_penalty:
        return f"covers {share:.0%} of the image and is marked down as the whole of it, to {score:.2f}"
    return plain


def _word(one: WordTrace) -> dict[str, Any]:
    return {
        "word": one.word.text,
        "span": list(one.word.span),
        "kind": str(one.word.kind),
        "head": one.word.is_head,
        "tokens": len(one.word.positions),
        "share": round(one.share, 6),
        "variation": round(one.variation, 6),
        "weight": round(one.weight, 6),
        "dropped": None if one.dropped is None else {"stage": one.dropped.stage, "why": one.dropped.why},
        "map": _rounded(one.map.values),
    }


def _rounded(values: FloatArray) -> list[list[float]]:
    return [[round(float(value), 4) for value in row] for row in values]
