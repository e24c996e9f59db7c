"""Propose the candidates of one expression: several prompts of different kinds, a picture's own masks, or a noun's.

Each kind asks its proposer once; nothing here looks at the words but the head noun that SAM 3 is asked for.

Notes:
    Which prompts `boxes` makes is our choice. Boxes around the map's region at several thresholds answer for things of
    several sizes; single peaks for several things; the method's own points stay among them, so that the choice can
    only be better informed, not blind to today's answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from grounding.candidates.base import Candidate, box_prompt
from grounding.candidates.rule import CandidateRule
from grounding.geometry import Box, tight_box
from grounding.points import Threshold, cells_to_xy, connected_region, otsu_threshold, suppress
from grounding.run_lengths import pack
from grounding.segmenters.suppression import suppress_masks
from grounding.types import BoolArray, Heatmap, PointPrompts

if TYPE_CHECKING:
    from grounding.segmenters.automatic import ProposedMask
    from grounding.segmenters.base import MaskCandidates, Segmenter
    from grounding.segmenters.sam3_concept import ConceptMask


def prompts(heatmap: Heatmap, points: PointPrompts, rule: CandidateRule) -> tuple[tuple[str, PointPrompts], ...]:
    """The prompts of the kind `boxes`, each with its origin in words.

    Args:
        heatmap: the map of the words.
        points: the method's own.
        rule: how many peaks, and the thresholds of the boxes.
    """
    found = [("the method's points", points)]
    for origin, prompt in (*_peaks(heatmap, rule), *_boxes(heatmap, rule)):
        if not any(_alike(prompt, other) for _, other in found):  # the method's point may be the peak
            found.append((origin, prompt))
    return tuple(found)


def from_prompts(
    segmenter: Segmenter, heatmap: Heatmap, points: PointPrompts, rule: CandidateRule
) -> tuple[Candidate, ...]:
    """Ask the segmenter every prompt; doubles are left out.

    Raises:
        SegmenterError: no image was set, or the device ran out of memory.
    """
    found: list[Candidate] = []
    for origin, prompt in prompts(heatmap, points, rule):
        found += of_prompt(segmenter.predict(prompt), prompt, origin)
    return without_doubles(found, rule.doubles)


def of_prompt(predicted: MaskCandidates, prompt: PointPrompts, origin: str) -> list[Candidate]:
    """The masks of one prompt that are not empty, as candidates."""
    import torch

    from grounding.segmenters.automatic import stability

    steady = stability(torch.as_tensor(predicted.low_res_logits)).tolist()
    return [
        Candidate(pack(mask), float(score), prompt, origin, firm)
        for mask, score, firm in zip(predicted.masks, predicted.scores, steady, strict=True)
        if mask.any()
    ]


def from_grid(masks: Iterable[ProposedMask]) -> tuple[Candidate, ...]:
    """The picture's own masks as candidates."""
    return tuple(Candidate(one.packed, one.score, one.prompt, "grid of points", one.stability) for one in masks)


def from_concepts(instances: Iterable[ConceptMask], noun: str) -> tuple[Candidate, ...]:
    """The instances of a noun as candidates."""
    return tuple(
        Candidate(pack(one.mask), one.score, box_prompt(one.box_xyxy), f"concept {noun!r}") for one in instances
    )


def without_doubles(found: list[Candidate], iou: float) -> tuple[Candidate, ...]:
    """Leave out candidates that overlap one of a higher estimate by more than an IoU; the order is kept."""
    keep = suppress_masks([one.packed for one in found], np.array([one.score for one in found]), iou)
    return tuple(found[index] for index in sorted(keep))


def _peaks(heatmap: Heatmap, rule: CandidateRule) -> Iterator[tuple[str, PointPrompts]]:
    values = heatmap.values
    high = np.where(values > rule.peak_height * values.max(), values, -np.inf)
    cells = suppress(high, rule.peaks, rule.peak_spacing * max(values.shape))
    for number, cell in enumerate(cells, 1):
        xy = cells_to_xy(cell[None], (values.shape[0], values.shape[1]), heatmap.image_size)
        weight = values[cell[0], cell[1]].reshape(1).astype(np.float32)
        yield f"peak {number} of the map", PointPrompts(xy, np.ones(1, np.int64), weight)


def _boxes(heatmap: Heatmap, rule: CandidateRule) -> Iterator[tuple[str, PointPrompts]]:
    values = heatmap.values
    regions: list[tuple[str, BoolArray]] = []
    for threshold in rule.boxes:
        regions.append((f"box of the map's peak at {threshold}", connected_region(values, threshold, "peak")))
    for threshold in rule.whole_boxes:
        regions.append((f"box of the map at {threshold}", _above(heatmap, threshold)))
    for origin, region in regions:
        yield origin, box_prompt(_in_pixels(tight_box(region), heatmap))


def _alike(one: PointPrompts, other: PointPrompts) -> bool:
    same = np.array_equal(one.xy, other.xy) and np.array_equal(one.label, other.label)
    return same and one.box_xyxy == other.box_xyxy


def _above(heatmap: Heatmap, threshold: Threshold) -> BoolArray:
    values = heatmap.values
    if threshold == "otsu":
        return np.asarray(values > otsu_threshold(values))
    return np.asarray(values >= float(threshold) * values.max())


def _in_pixels(cells: Box, heatmap: Heatmap) -> Box:
    (height, width), (across, down) = heatmap.values.shape, heatmap.image_size
    x, y = across / width, down / height
    return (cells[0] * x, cells[1] * y, cells[2] * x, cells[3] * y)
