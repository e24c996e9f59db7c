"""Rank heads by their scores on all samples.

`entropy` is the rule of localisation heads (Kang et al., CVPR 2025): heads whose attention on the image, averaged over
the samples, is below a cut are left out; per sample the `marked` remaining heads of lowest spatial entropy are marked;
heads are ranked by how often. The first layers are left out. The cut is where the sorted shares bend most.

Notes:
    Our choices. The paper calls the cut the point of maximum curvature; its released code returns a head's number there
    instead of a value, so that it cuts by depth. `curvature` is the value at the largest curvature of the sorted
    shares, both axes scaled to [0, 1], and `chord` the value at the largest distance below the chord between their
    ends; `none` cuts nothing. At most half of the remaining heads are marked, since small models have few of them and
    marking all would rank none. Ties go to the larger share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from grounding.errors import MethodError
from grounding.localization.scores import HeadScores
from grounding.maps.selection import elbow

Cut = Literal["curvature", "chord", "none"]
Ranked = tuple[tuple[int, int, float], ...]
Table = npt.NDArray[np.floating]


@dataclass(frozen=True)
class EntropyRule:
    """The numbers of the rule `entropy`.

    Attributes:
        cut: how the least share is found.
        min_share: least share of attention on the image in [0, 1]; found by `cut` where None.
        skip_layers: how many of the first layers are left out; the paper leaves out two.
        marked: most heads marked per sample; the paper's 10.
    """

    cut: Cut = "curvature"
    min_share: float | None = None
    skip_layers: int = 2
    marked: int = 10

    def __post_init__(self) -> None:
        if self.skip_layers < 0 or self.marked < 1:
            raise MethodError("heads by entropy need skip_layers >= 0 and marked >= 1")
        if self.min_share is not None and not 0 <= self.min_share <= 1:
            raise MethodError(f"heads by entropy need min_share in [0, 1], got {self.min_share}")

    def least(self, shares: Table) -> float:
        """The least share, from the mean shares [n] of the heads that may be kept."""
        if self.min_share is not None:
            return self.min_share
        if self.cut == "none":
            return 0.0
        return elbow(shares) if self.cut == "chord" else sharpest_bend(shares)


def by_entropy(scores: Sequence[HeadScores], rule: EntropyRule) -> Ranked:
    """Rank heads by how often they are marked; heads that never are, and those below the cut, are missing.

    Raises:
        MethodError: every layer is skipped.
    """
    layers = scores[0].layers
    share = np.mean([one.share for one in scores], axis=0)
    allowed = np.broadcast_to(np.array(layers)[:, None] >= rule.skip_layers, share.shape)
    if not allowed.any():
        raise MethodError(
            f"the first {rule.skip_layers} layers are skipped, but the last with attention weights is number "
            f"{layers[-1]}: lower skip_layers"
        )
    kept = np.argwhere(allowed & (share >= rule.least(share[allowed])))
    marked = min(rule.marked, max(1, len(kept) // 2))
    times = np.zeros(share.shape)
    for one in scores:
        entropies = [(one.entropy[i, j], -share[i, j], i, j) for i, j in kept]
        for _, _, i, j in sorted(entropies)[:marked]:
            times[i, j] += 1
    return ranked(layers, times / len(scores), share, least=np.finfo(np.float64).tiny)


def ranked(layers: Sequence[int], scores: Table, tie: Table, least: float = -np.inf) -> Ranked:
    """(layer, head, score) by falling score [L, H], and among equals by falling `tie`; scores below `least` are out.

    Args:
        layers: the L layers' numbers in the model.
        scores: [L, H].
        tie: [L, H].
        least: the least score that is kept.
    """
    order = sorted(np.ndindex(scores.shape), key=lambda at: (-scores[at], -tie[at], at))
    return tuple((layers[at[0]], at[1], float(scores[at])) for at in order if scores[at] >= least)


def sharpest_bend(values: Table) -> float:
    """The value where the sorted values [n] bend upwards most, both axes scaled to [0, 1]."""
    low_to_high = np.sort(values.astype(np.float64))
    if len(low_to_high) < 3 or low_to_high[-1] <= low_to_high[0]:
        return float(low_to_high[0])
    y = (low_to_high - low_to_high[0]) / (low_to_high[-1] - low_to_high[0])
    step = 1 / (len(y) - 1)
    slope = np.gradient(y, step)
    bend = np.gradient(slope, step) / (1 + slope**2) ** 1.5
    return float(low_to_high[int(np.argmax(bend))])


def mean_rank(tables: Sequence[Table]) -> Table:
    """The mean over tables [L, H] of each head's rank from below, scaled to [0, 1]."""
    places = [np.argsort(np.argsort(table, axis=None, kind="stable"), kind="stable") for table in tables]
    return (np.mean(places, axis=0) / max(places[0].size - 1, 1)).reshape(tables[0].shape)
