"""What passes between proposing and choosing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from grounding.equality import ByValue
from grounding.run_lengths import PackedMask
from grounding.types import BoolArray, PointPrompts


@dataclass(frozen=True, eq=False)
class Candidate(ByValue):
    """A mask that may be the answer.

    Attributes:
        packed: the mask in the image's size, not empty.
        score: the proposer's own estimate: of the mask's IoU (segmenters), or that it is such a thing (SAM 3's
            concepts); about [0, 1].
        prompt: what led to it, in pixels of the image.
        origin: what led to it, in words ("box of the map at 0.2").
        stability: how little the mask depends on the threshold it is cut at, in [0, 1]; 1 where the proposer does not
            say.
    """

    packed: PackedMask = field(repr=False)
    score: float
    prompt: PointPrompts = field(repr=False)
    origin: str
    stability: float = 1.0

    @property
    def mask(self) -> BoolArray:
        """The pixels, bool [H, W]; unpacked at every call."""
        return self.packed.mask


@dataclass(frozen=True, eq=False)
class RankedCandidate(ByValue):
    """A candidate, and why it stands where it stands.

    Attributes:
        candidate: the mask.
        features: what it was ranked by; see `grounding.candidates.features`.
        place: how well it fits the expression's spatial words, in [0, 1]; None where there are none.
        score: by the rule; higher is better, and only differences mean something.
        why: the reasons in words.
    """

    candidate: Candidate
    features: Mapping[str, float]
    place: float | None
    score: float
    why: str


def box_prompt(box_xyxy: tuple[float, float, float, float]) -> PointPrompts:
    """The prompt of a box alone."""
    return PointPrompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), box_xyxy)
