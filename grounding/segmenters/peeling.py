"""Several masks from one map: segment its peak, take what the mask covers off the map, and go on with what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from grounding.errors import SegmenterError
from grounding.geometry import cell_coverage
from grounding.points import PointRule
from grounding.segmenters.mask_selection import MaskRule, predict_mask
from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts, Segment

if TYPE_CHECKING:
    from grounding.segmenters.base import Segmenter


@dataclass(frozen=True)
class Peeling:
    """When to stop looking for more things on one map, and what to take off it each time.

    Attributes:
        rounds: most masks of one map; 1 takes the first alone.
        least_peak: stop where the highest value left is below this share of the map's first one, in [0, 1].
        least_new: stop where less than this share of a mask is off all earlier ones, in [0, 1].
        margin: what is taken off the map reaches this far around the mask, in units of the square root of its area.

    Raises:
        SegmenterError: a value is out of range.

    Notes:
        VL-SAM (arXiv 2410.05963, iterative refinement) masks the map with the mask, takes new points, and repeats
        "until convergence". What is masked, the number of rounds and the test of convergence are not in the paper, so
        all of this is our choice. A map is wider than its object by the size of its cells, hence the margin.
    """

    rounds: int = 4
    least_peak: float = 0.5
    least_new: float = 0.5
    margin: float = 0.25

    def __post_init__(self) -> None:
        if self.rounds < 1 or not (0 <= self.least_peak <= 1 and 0 <= self.least_new <= 1) or self.margin < 0:
            raise SegmenterError(
                f"rounds {self.rounds}, least_peak {self.least_peak}, least_new {self.least_new} and margin "
                f"{self.margin} were given, expected at least 1, shares in [0, 1], and a margin of 0 or more"
            )


@dataclass(frozen=True)
class Peeled:
    """The masks of one map.

    Attributes:
        segments: in the order in which they were found; each has the points of its round.
        asked: how many times points were given to the segmenter; a mask that is nothing new counts too.
    """

    segments: tuple[Segment, ...]
    asked: int


def peel(
    segmenter: Segmenter,
    heatmap: Heatmap,
    points: PointRule,
    rule: MaskRule,
    peeling: Peeling | None = None,
    label: str = "",
) -> Peeled:
    """Find the things of one map.

    Args:
        segmenter: with the map's picture set.
        heatmap: where the words attend, over that picture.
        points: from what is left of the map to a prompt.
        rule: chooses each mask, and says whether it is refined.
        peeling: when to stop; the defaults where None.
        label: the words that the masks stand for.

    Raises:
        EmptyMapError: the map is empty to begin with.
        SegmenterError: see `grounding.segmenters.mask_selection.predict_mask`.
    """
    peeling = peeling or Peeling()
    values: FloatArray = heatmap.values.astype(np.float32)
    first, asked = float(values.max()), 0
    known: BoolArray | None = None
    found: list[Segment] = []
    for _ in range(peeling.rounds):
        highest = float(values.max())
        if found and (highest <= 0 or highest < peeling.least_peak * first):
            break
        left = Heatmap(values / highest if highest > 0 else values, heatmap.image_size)
        prompts = points(left)
        segment = predict_mask(segmenter, prompts, left, rule, label)
        asked += 1
        if known is None:
            known = np.zeros_like(segment.mask)
        area = int(segment.mask.sum())
        if area == 0 or np.count_nonzero(segment.mask & ~known) < peeling.least_new * area:
            break
        found.append(segment)
        known = known | segment.mask
        values = np.where(_explained(segment, prompts, values.shape, heatmap.image_size, peeling.margin), 0, values)
    return Peeled(tuple(found), asked)


def attention_inside(mask: BoolArray, heatmap: Heatmap) -> float:
    """The mean of a map's values on a mask, in [0, 1]; 0 for an empty mask."""
    cells = cell_coverage(mask, heatmap.values.shape)
    total = float(cells.sum())
    return float((cells * heatmap.values).sum()) / total if total > 0 else 0.0


def _explained(
    segment: Segment, prompts: PointPrompts, shape: tuple[int, ...], size: tuple[int, int], margin: float
) -> BoolArray:
    """Cells that a mask covers by half or more, those around it, and those of its points."""
    coverage = cell_coverage(segment.mask, shape)
    cells: BoolArray = coverage >= 0.5
    for x, y in prompts.xy[prompts.label == 1]:
        row, column = int(y * shape[0] / size[1]), int(x * shape[1] / size[0])
        cells[min(row, shape[0] - 1), min(column, shape[1] - 1)] = True  # a mask may leave its own point out
    reach = margin * float(np.sqrt(coverage.sum()))
    return cells if reach <= 0 else ndimage.distance_transform_edt(~cells) <= reach
