"""How well each candidate fits the spatial words of an expression, relative to the things it competes with.

"the left cup" is left of the other cups, wherever they stand in the picture. So candidates are first gathered into
things: masks that overlap, or of which one lies in the other, are of one thing. The things are then ordered along an
axis or by size.

Notes:
    The rules are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grounding.run_lengths import PackedMask, insides
from grounding.text.order import LAST, Order
from grounding.text.sides import Side
from grounding.types import FloatArray, IntArray

Doubles = npt.NDArray[np.float64]

SAME_THING = 0.7  # share of one mask inside another from which on both are of one thing
_ACROSS, _DOWN = 0, 1


def things(masks: Sequence[PackedMask], scores: FloatArray, margin: float) -> IntArray:
    """Choose one candidate for each of the things that compete.

    Args:
        masks: N candidates of one picture.
        scores: [N] higher is better.
        margin: candidates that score lower than the best by more than this do not compete.

    Returns:
        [K] indices, best first.
    """
    within = insides(masks)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < scores.max() - margin:
            break
        overlap = np.maximum(within[index, kept], within[kept, index])
        if not (overlap > SAME_THING).any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def places(order: Order, masks: Sequence[PackedMask], scores: FloatArray, margin: float) -> FloatArray:
    """How well every candidate fits the order, in [0, 1].

    A candidate that is of one of the competing things has that thing's place; any other has 0.

    Args:
        order: what the expression asks for; it says something.
        masks: N candidates of one picture.
        scores: [N] by everything but place.
        margin: see `things`.

    Returns:
        [N] float32: the product over what the order asks for. A side is 1 for the outermost thing and 0 for the one at
        the other end; a size likewise; the thing that is counted to is 1 and every other 0, all 0 where there are too
        few.
    """
    chosen = things(masks, scores, margin)
    centres = np.array([_centre(masks[index]) for index in chosen])
    areas = np.log([masks[index].area for index in chosen])
    fit = np.ones(len(chosen))
    for side in order.sides:
        fit *= _along(side, order.sides, centres)
    if order.ordinal is not None:
        fit *= _counted(order, centres, areas)
    elif order.size is not None:
        fit *= _relative(areas if order.size == "large" else -areas)
    within = insides(masks)
    overlap = np.maximum(within[:, chosen], within[chosen].T)  # [N, K]
    nearest = overlap.argmax(axis=1)
    own = overlap[np.arange(len(masks)), nearest] > SAME_THING
    return np.where(own, fit[nearest], 0.0).astype(np.float32)


def _centre(mask: PackedMask) -> tuple[float, float]:
    """The centre of the tight box, as shares of the picture's width and height."""
    x0, y0, x1, y1 = mask.box_xyxy
    return ((x0 + x1) / 2 / mask.size[1], (y0 + y1) / 2 / mask.size[0])


def _along(side: Side, named: Sequence[Side], centres: Doubles) -> Doubles:
    if side == "middle":
        # Beside a horizontal side "middle" is vertical ("middle left"), as in the stage `spatial-bias`.
        axis = _DOWN if {"left", "right"} & {*named} else _ACROSS
        spread = centres[:, axis]
        return _relative(-np.abs(spread - (spread.min() + spread.max()) / 2))
    values = centres[:, _ACROSS if side in ("left", "right") else _DOWN]
    return _relative(-values if side in ("left", "top") else values)


def _relative(values: Doubles) -> Doubles:
    """Scale the largest value to 1 and the smallest to 0; all 1 where they do not differ."""
    spread = values.max() - values.min()
    return np.ones(len(values)) if spread <= 1e-9 else (values - values.min()) / spread


def _counted(order: Order, centres: Doubles, areas: Doubles) -> Doubles:
    if order.counted_from is None:
        keys = -areas if order.size == "large" else areas
    else:
        keys = centres[:, _ACROSS if order.counted_from in ("left", "right") else _DOWN]
        keys = keys if order.counted_from in ("left", "top") else -keys
    number = len(keys) if order.ordinal == LAST else order.ordinal or 0
    fit = np.zeros(len(keys))
    if 1 <= number <= len(keys):
        fit[np.argsort(keys, kind="stable")[number - 1]] = 1
    return fit
