"""Make ablations of a method: one of its parts switched off at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from operator import or_

from grounding.methods import Method, without
from grounding.points import ArgMax
from grounding.types import RecordSpec


def ablations(method: Method) -> dict[str, Method]:
    """The method without each of its parts, by what is different in it.

    Each stage is left out in turn (an axis that it would have averaged is averaged when the map is composed). The
    point rule is replaced by the one point at the maximum, the mask choice by the segmenter's own estimate, and the
    cascade by one call.
    """
    found = {f"without {stage.name}": without(method, stage.name) for stage in method.stages}
    if not isinstance(method.points, ArgMax):
        found["one point at the maximum"] = replace(method, points=ArgMax())
    if method.mask.choice != "iou":
        found["mask by the segmenter's estimate"] = replace(method, mask=replace(method.mask, choice="iou"))
    if method.mask.cascade:
        found["without the cascade"] = replace(method, mask=replace(method.mask, cascade=False))
    return found


def shared_spec(methods: Iterable[Method], layer_count: int) -> RecordSpec:
    """The one recording that every method of a list can run on.

    Args:
        methods: at least one.
        layer_count: the model's decoder layers.
    """
    return reduce(or_, (method.record_spec(layer_count) for method in methods))
