"""A method with one of its parts switched off at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from grounding.methods import Method, without
from grounding.points import ArgMax
from grounding.types import RecordSpec


def ablations(method: Method) -> dict[str, Method]:
    """The method without each of its parts, by what is different about it.

    Each stage is left out in turn (what it leaves undone is averaged when the map is composed); the point rule gives
    way to the one point at the maximum, the mask choice to the segmenter's own estimate, and the cascade to one call.
    """
    found = {f"without {stage.name}": without(method, stage.name) for stage in method.stages}
    if not isinstance(method.points, ArgMax):
        found["one point at the maximum"] = replace(method, points=ArgMax())
    if method.mask.choice != "iou":
        found["mask by the segmenter's estimate"] = replace(method, mask=replace(method.mask, choice="iou"))
    if method.mask.cascade:
        found["without the cascade"] = replace(method, mask=replace(method.mask, cascade=False))
    return found


def shared_knobs(methods: Iterable[Method], layer_count: int) -> RecordSpec:
    """What to record once so that every one of the methods can run on it."""
    wanted = [method.record_spec(layer_count) for method in methods]
    layers: set[int] | None = set()
    for knobs in wanted:
        layers = None if layers is None or knobs.layers is None else layers | set(knobs.layers)
    return RecordSpec(
        layers=None if layers is None else tuple(sorted(layers)),
        head_statistics=tuple(dict.fromkeys(name for knobs in wanted for name in knobs.head_statistics)),
        residual_sinks=any(knobs.residual_sinks for knobs in wanted),
        reduce="heads" if all(knobs.reduce == "heads" for knobs in wanted) else "none",
        background_prompt=next((knobs.background_prompt for knobs in wanted if knobs.background_prompt), None),
    )
