"""Run a lab: tune every method by one rule on validation scenes, measure it on test scenes against no steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from evals.chair.curve import CurvePoint, truncation_curve
from evals.chair.score import CaptionScore, cut, ratios
from evals.lab.plan import LabCandidate, LabPlan
from evals.task import Answer
from evals.tasks.scenes import ScenesTask, caption_scores, scene_lexicon
from grounding.scenes.habits import measuring_scene
from grounding.scenes.language import DESCRIBE, caption
from grounding.steering.method import Steering
from grounding.steering.samples import CalibrationSample, Source

UNSTEERED = "unsteered"
TRUNCATION = "truncation"
Ask = Callable[[str, ScenesTask, Steering | None], tuple[Answer, ...]]
FitOne = Callable[[LabCandidate], Steering]


@dataclass(frozen=True)
class Figures:
    """Metrics that a setting is selected by: fractions, and the mean number of words."""

    chair_i: float
    recall: float
    length: float
    f1: float


@dataclass(frozen=True)
class Trial:
    """One setting of a method on the validation scenes.

    Attributes:
        name: the method's name, with the setting.
        figures: its metrics.
        allowed: whether recall and length stayed within the plan's limits.
    """

    name: str
    figures: Figures
    allowed: bool


@dataclass(frozen=True)
class Entry:
    """One method, tuned and measured.

    Attributes:
        name: the method's.
        chosen: name of the selected setting; None for the unsteered model.
        steering: the selected setting as text of a steering file; None without steering.
        tried: every setting on the validation scenes.
        answers: to the test samples, in their order.
    """

    name: str
    chosen: str | None
    steering: str | None
    tried: tuple[Trial, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class LabResult:
    """The result of a lab.

    Attributes:
        entries: unsteered first.
        curve: the truncation curve of the unsteered test captions.
    """

    entries: tuple[Entry, ...]
    curve: tuple[CurvePoint, ...]


def run_lab(plan: LabPlan, ask: Ask, fit: FitOne) -> LabResult:
    """Tune every candidate method on the validation scenes and measure it on the test scenes.

    Args:
        plan: the comparison.
        ask: runs a task, steered or not, under a unique name: `validation/...` or `test/...`.
        fit: fits a candidate's gains on the calibration scenes.
    """
    tuning = ScenesTask(plan.validation_scenes, plan.validation_seed, yes_no=False)
    testing = ScenesTask(plan.test_scenes, plan.test_seed)
    lexicon = scene_lexicon()

    before = caption_scores(ask(f"validation/{UNSTEERED}", tuning, None))
    plain = ask(f"test/{UNSTEERED}", testing, None)
    entries = [Entry(UNSTEERED, None, None, (), plain)]
    for candidate in plan.contenders:
        tried = {}
        for steering in candidate.settings(fit(candidate) if candidate.fit else None):
            scores = caption_scores(ask(f"validation/{steering.name}", tuning, steering))
            tried[steering.name] = (steering, _tried(steering.name, scores, before, plan))
        best = best_trial([one for _, one in tried.values()])
        steering = tried[best.name][0]
        answers = ask(f"test/{candidate.name}", testing, steering)
        entries.append(
            Entry(candidate.name, best.name, steering.to_yaml(), tuple(one for _, one in tried.values()), answers)
        )
    cuts = {
        f"{TRUNCATION} ({words} words)": (words, [cut(one, words, lexicon) for one in before]) for words in plan.cuts
    }
    tried_cuts = tuple(_tried(name, scores, before, plan) for name, (_, scores) in cuts.items())
    best = best_trial(tried_cuts)
    answers = tuple(shortened(one, cuts[best.name][0]) for one in plain)
    entries.append(Entry(TRUNCATION, best.name, None, tried_cuts, answers))
    longest = max(len(one.words) for one in caption_scores(plain))
    return LabResult(tuple(entries), truncation_curve(caption_scores(plain), lexicon, range(2, longest + 1)))


def question_count(plan: LabPlan) -> int:
    """How many questions `run_lab` asks, over all methods and settings; fits are apart."""
    settings = sum(math.prod(len(values) for values in one.grid.values()) for one in plan.contenders)
    tested = len(ScenesTask(plan.test_scenes, plan.test_seed).samples())
    return (1 + settings) * plan.validation_scenes + (1 + len(plan.contenders)) * tested


def calibration_sources(plan: LabPlan) -> list[Source]:
    """Draw calibration scenes with their true descriptions, of a seed of their own."""
    return [partial(_described, plan.calibration_seed, index) for index in range(plan.calibration_scenes)]


def _described(seed: int, index: int) -> CalibrationSample:
    drawn = measuring_scene(seed, index)
    return CalibrationSample(drawn.image, DESCRIBE, caption(drawn.scene.objects, attributes=True))


def best_trial(tried: Sequence[Trial]) -> Trial:
    """Select the allowed trial with the lowest CHAIR_I; if none is allowed, the one with the highest F1."""
    allowed = [one for one in tried if one.allowed]
    if allowed:
        return min(allowed, key=lambda one: one.figures.chair_i)
    return max(tried, key=lambda one: one.figures.f1)


def figures(scores: Sequence[CaptionScore]) -> Figures:
    """Compute the metrics that a setting is selected by."""
    found = ratios(scores)
    return Figures(**{name: found[name].value for name in ("chair_i", "recall", "length", "f1")})


def shortened(answer: Answer, words: int) -> Answer:
    """Truncate an answer for the control: descriptions are cut, yes-no answers are not."""
    if answer.fields["kind"] != "describe":
        return answer
    return replace(answer, text=" ".join(answer.text.split()[:words]))


def _tried(name: str, scores: Sequence[CaptionScore], before: Sequence[CaptionScore], plan: LabPlan) -> Trial:
    now, then = figures(scores), figures(before)
    kept = then.recall - now.recall <= plan.recall_loss / 100 + 1e-9
    as_long = abs(now.length / then.length - 1) <= plan.length_change / 100 + 1e-9
    return Trial(name, now, kept and as_long)
