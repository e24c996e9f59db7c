"""Choose decoder layers: the one rule for methods on maps and for steering."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grounding.errors import MethodError


def share_of(share: float, count: int) -> int:
    """A share of `count` things as a whole number: the nearest one, halves rounded up (0.5 of 27 is 14)."""
    return math.floor(share * count + 0.5 + 1e-9)  # 0.3 * 5 is a little less than 1.5 in floating point


@dataclass(frozen=True)
class LayerRange:
    """Some decoder layers of a model of any depth.

    Layers are named by `indices`, or selected between two shares of the depth: of n layers those from
    `share_of(start, n)` up to, not including, `share_of(stop, n)`. A stretch shorter than one layer that holds none by
    this rule keeps the layer that its middle lies in, so that a method for deep models runs on shallow ones. `start`
    and `stop` are shares even where they are written as whole numbers: 0 is the first layer and 1 is behind the last.

    Attributes:
        indices: layers counted from 0; negative ones count from the end.
        start: where the stretch begins, as a share of the depth in [0, 1].
        stop: where the stretch ends, as a share of the depth in [0, 1].
        skip: how many of the model's first layers to leave out of the stretch, as a number of layers.

    Notes:
        Papers name a first layer ("from layer 2 on") or a part of the depth ("the later half"): `skip: 2` and
        `start: 0.5`.
    """

    indices: tuple[int, ...] = ()
    start: float = 0.0
    stop: float = 1.0
    skip: int = 0

    def __post_init__(self) -> None:
        for name, share in (("start", self.start), ("stop", self.stop)):
            if not 0 <= share <= 1:
                raise MethodError(
                    f"{name} {share:g} is not a share of the depth in [0, 1]: name layers by number with "
                    "'indices: [2, 3]', or leave out the first ones with 'skip: 2'"
                )
        if self.start >= self.stop:
            raise MethodError(f"layers need start < stop, got {self.start:g} and {self.stop:g}")
        if self.skip < 0:
            raise MethodError(f"layers need skip >= 0, got {self.skip}")
        if self.indices and (self.start, self.stop, self.skip) != (0.0, 1.0, 0):
            raise MethodError("layers are given either by indices or by start, stop and skip, not both")

    def chosen(self, count: int) -> tuple[int, ...]:
        """The layers of a decoder with `count` layers, counted from 0, in order.

        Raises:
            MethodError: an index lies outside the model, or no layer is left.
        """
        outside = [index for index in self.indices if not -count <= index < count]
        if outside:
            raise MethodError(
                f"layers {outside} are named, but the model has {count} layers: use {-count} to {count - 1}"
            )
        if self.indices:
            return tuple(sorted({index % count for index in self.indices}))
        first, end = share_of(self.start, count), share_of(self.stop, count)
        if first == end:
            first = int((self.start + self.stop) / 2 * count)
            end = first + 1
        layers = tuple(range(max(first, self.skip), end))
        if not layers:
            raise MethodError(
                f"layers from {self.start:g} to {self.stop:g} of the depth without the first {self.skip} are none of "
                f"the model's {count}: widen the range"
            )
        return layers
