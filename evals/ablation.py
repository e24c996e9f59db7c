"""Make ablations of a method: one of its parts switched off at a time, and its parts added one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce

from grounding.errors import MethodError
from grounding.maps.ensemble import HOW, JoinModels
from grounding.methods import Method, without
from grounding.points import ArgMax

LADDER = {
    "stop-words": "stop words dropped",
    "text-sinks": "sinks out",
    "magnets": "magnets",
    "head-noun": "head noun",
    "spatial-bias": "spatial bias",
}
"""Stages that RefAM (arXiv 2509.22650) adds to a raw map of words, in the order of our ablation, and names."""


def ablations(method: Method, models: Sequence[str] = ()) -> dict[str, Method]:
    """The method without each of its parts, by what is different in it.

    Each stage that later ones can do without is left out in turn (an axis that it would have averaged is averaged when
    the map is composed). The point rule is replaced by the one point at the maximum, the mask choice by the segmenter's
    own estimate, and the cascade by one call. See `ladder` for what else a method with magnets or sinks has, and
    `joins` an ensemble's.

    Args:
        method: the full method.
        models: an ensemble's models.
    """
    found = {}
    for stage in method.stages:
        with suppress(MethodError):  # later stages need it, as a change of sinks needs magnets
            found[f"without {stage.name}"] = without(method, stage.name)
    found |= joins(method, models)
    if not isinstance(method.points, ArgMax):
        found["one point at the maximum"] = replace(method, points=ArgMax())
    if method.mask.choice != "iou":
        found["mask by the segmenter's estimate"] = replace(method, mask=replace(method.mask, choice="iou"))
    if method.mask.cascade:
        found["without the cascade"] = replace(method, mask=replace(method.mask, cascade=False))
    return found | ladder(method)


def ladder(method: Method) -> dict[str, Method]:
    """Build the method up from the raw map of all words, a stage of `LADDER` at a time; the full method is left out.

    A method with fewer than three of these stages has no ladder, since leaving out each says the same.
    """
    names = [name for name in LADDER if name in [stage.name for stage in method.stages]]
    if len(names) < 3:
        return {}
    found = {}
    for count in range(len(names)):
        with suppress(MethodError):
            rung = reduce(without, names[count:], method)
            found[f"+ {LADDER[names[count - 1]]}" if count else "raw map of all words"] = rung
    return found


def joins(method: Method, models: Sequence[str]) -> dict[str, Method]:
    """The method with each model of an ensemble alone, and with the other ways to join their maps."""
    join = next((stage for stage in method.stages if isinstance(stage, JoinModels)), None)
    if join is None:
        return {}
    alone = {
        f"{name} alone": replace(join, weights=tuple(float(index == other) for other in range(len(models))))
        for index, name in enumerate(models)
    }
    others = {f"joined by {how}": replace(join, how=how) for how in HOW if how != join.how}
    return {
        name: replace(method, stages=tuple(changed if stage is join else stage for stage in method.stages))
        for name, changed in (alone | others).items()
    }
