"""Measure pointing, presence questions and captions on test photos; scores as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from evals.photos.annotations import expressions, nouns
from evals.photos.plan import PhotoPlan
from evals.photos.pointing import Pointed, noun_samples, point_at, shuffled_hits
from evals.photos.questions import caption_scores, pope_scores
from evals.report import change, change_json, score, score_json
from evals.scenes import CENTRE, FULL, TRUTH, answer_samples, fitting
from evals.statistics import Interval, bootstrap, bootstrap_difference, mean_of
from evals.variants import GENERIC, compared
from grounding.errors import EvalDataError, GroundingError
from grounding.faults import attempt_one
from grounding.models.base import VLM
from grounding.photos import PhotoSet
from pipelines.referring import ReferringSegmentation

Failed = Callable[[str, GroundingError], None]
"""Called with what failed and the error."""


def measure(
    pipe: ReferringSegmentation,
    photos: PhotoSet,
    plan: PhotoPlan,
    advance: Callable[[int], None] = lambda count: None,
    failed: Failed = lambda what, error: None,
) -> dict[str, Any]:
    """Measure each part of the plan.

    Args:
        pipe: the pipeline; POPE and captions use its model alone.
        photos: only their test photos are used.
        plan: what to measure.
        advance: called with the number of questions answered since its last call.
        failed: called for a photo that cannot be opened, which is left out, and for a question about a photo that model
            or segmenter refuse, which counts as a miss. Of POPE and captions the failures are in the scores.

    Returns:
        JSON-like scores by part.
    """
    vlm = pipe.source
    assert isinstance(vlm, VLM), "photos are measured on a vision-language model"
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "nouns": lambda: noun_scores(pipe, photos, plan, advance, failed),
        "expressions": lambda: expression_scores(pipe, photos, plan, advance, failed),
        "pope": lambda: pope_scores(vlm, photos, plan, advance),
        "captions": lambda: caption_scores(vlm, photos, plan, advance),
    }
    return {part: parts[part]() for part in plan.parts}


def noun_scores(
    pipe: ReferringSegmentation, photos: PhotoSet, plan: PhotoPlan, advance: Callable[[int], None], failed: Failed
) -> dict[str, Any]:
    """Score points and masks of nouns, the controls, and the difference of the full method from each of them.

    `left_out` holds the methods that do not fit the model, and why.
    """
    found = nouns(plan.data, photos, plan.seed, lambda photo, error: failed(photo.name, error))[: plan.limit]
    if not found:
        raise EvalDataError(f"{plan.data} has no annotated class on a test photo that can be opened: leave out nouns")
    vlm = pipe.source
    asked = vlm.default_question if isinstance(vlm, VLM) else GENERIC
    left_out: dict[str, str] = {}
    others = fitting(
        pipe,
        compared(pipe.method, plan.methods, plan.vary, asked),
        next(noun_samples(found)),
        lambda name, why: left_out.update({name: str(why)}),
    )
    answers = answer_samples(
        pipe,
        noun_samples(found),
        ablate=plan.ablate,
        methods=others,
        advance=advance,
        failed=lambda sample, error: failed(f"photo {sample.scene}, {sample.expression!r}", error),
    )
    outcomes, groups = answers.outcomes, answers.scenes
    full = outcomes[FULL]
    shuffled = shuffled_hits(pipe, noun_samples(found), plan.seed, advance)
    hits = mean_of([one.hit for one in full if one is not None], groups)
    control = mean_of(shuffled, groups)
    return {
        "photos": len(set(groups)),
        "left_out": left_out,
        "variants": {name: score_json(score(found, groups)) for name, found in outcomes.items()},
        "full_minus": {
            name: change_json(change(full, outcomes[name], groups)) for name in outcomes if name not in (FULL, TRUTH)
        },
        "shuffled_heads": {
            "pointing_accuracy": bounds(bootstrap(control)),
            "full_minus": bounds(bootstrap_difference(hits, control)),
        },
        "by_class": by_class([noun.name for noun in found], [bool(one and one.hit) for one in full]),
    }


def by_class(names: Sequence[str], hits: Sequence[bool]) -> dict[str, list[int]]:
    """Count [hits, nouns] per class, the most frequent class first."""
    table: dict[str, list[int]] = {}
    for name, hit in zip(names, hits, strict=True):
        row = table.setdefault(name, [0, 0])
        row[0] += hit
        row[1] += 1
    return dict(sorted(table.items(), key=lambda item: (-item[1][1], item[0])))


def expression_scores(
    pipe: ReferringSegmentation, photos: PhotoSet, plan: PhotoPlan, advance: Callable[[int], None], failed: Failed
) -> dict[str, Any]:
    """Score points against boxes; an expression with a word outside the model's vocabulary is a miss, and counted.

    `answered` holds the same scores over the expressions that the model could be asked about, with their number:
    with a small vocabulary the scores over all of them say little about where known words point.
    """
    pointed = []
    for asked in expressions(plan.data, photos, lambda photo, error: failed(photo.name, error))[: plan.limit]:
        one = attempt_one(partial(point_at, pipe, asked))
        if isinstance(one, GroundingError):
            failed(f"photo {asked.photo.id}, {asked.expression!r}", one)
            one = Pointed(asked.photo.id, None, None, False)
        pointed.append(one)
        advance(1)
    return {
        **point_in_box(pointed),
        "refused": {
            "full": sum(one.full is None for one in pointed),
            "head noun alone": sum(one.head is None for one in pointed),
        },
        "answered": point_in_box([one for one in pointed if one.full is not None]),
    }


def point_in_box(pointed: Sequence[Pointed]) -> dict[str, Any]:
    """Score the share of points inside boxes, and the difference of the whole expression from its controls.

    Args:
        pointed: hits by expression; a refused one counts as a miss. Of an empty sequence only `n` is given.
    """
    if not pointed:
        return {"n": 0, "point_in_box": {}, "full_minus": {}}
    groups = [one.photo for one in pointed]
    columns = {
        "full": mean_of([bool(one.full) for one in pointed], groups),
        "head noun alone": mean_of([bool(one.head) for one in pointed], groups),
        CENTRE: mean_of([one.centre for one in pointed], groups),
    }
    return {
        "n": len(pointed),
        "point_in_box": {name: bounds(bootstrap(column)) for name, column in columns.items()},
        "full_minus": {
            name: bounds(bootstrap_difference(columns["full"], column))
            for name, column in columns.items()
            if name != "full"
        },
    }


def bounds(interval: Interval) -> list[float]:
    """[value, low, high], rounded to four decimals."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]
