"""Rectangles as candidates, and a map that is high on one of them."""

from __future__ import annotations

import numpy as np

from grounding.candidates.base import Candidate, box_prompt
from grounding.run_lengths import PackedMask, pack
from grounding.types import Heatmap

SIZE = (60, 40)  # (width, height)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> PackedMask:
    mask = np.zeros(SIZE[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return pack(mask)


def candidate(x0: int, y0: int, x1: int, y1: int, score: float = 0.9) -> Candidate:
    return Candidate(rectangle(x0, y0, x1, y1), score, box_prompt((x0, y0, x1, y1)), "made")


def map_on(x0: int, y0: int, x1: int, y1: int, off: float = 0.1, cell: int = 5) -> Heatmap:
    """1 on a rectangle of whole cells, `off` elsewhere."""
    values = np.full((SIZE[1] // cell, SIZE[0] // cell), off, np.float32)
    values[y0 // cell : y1 // cell, x0 // cell : x1 // cell] = 1
    return Heatmap(values, SIZE)
