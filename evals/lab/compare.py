"""The lab: every method tuned by one rule on one set of scenes, and measured on another against the unsteered model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.chair.curve import CurvePoint, truncation_curve
from evals.chair.score import CaptionScore, cut, ratios
from evals.lab.plan import LabPlan
from evals.tasks.base import Answer, Sample
from evals.tasks.scenes import ScenesTask, caption_scores, scene_lexicon
from grounding.models.base import Family
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering

UNSTEERED = "unsteered"
TRUNCATION = "truncation"
Ask = Callable[[str, Sequence[Sample], Steering | None], tuple[Answer, ...]]


@dataclass(frozen=True)
class Figures:
    """What a candidate is chosen by: fractions, and a mean number of words."""

    chair_i: float
    recall: float
    length: float
    f1: float


@dataclass(frozen=True)
class Tried:
    """One candidate on the validation scenes.

    Attributes:
        name: the method's, with its numbers.
        figures: what came out.
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
        chosen: the candidate's name; None for the model as it is.
        steering: the candidate as text of a steering file; None where nothing was steered.
        tried: every candidate on the validation scenes.
        answers: to the test's samples, in their order.
    """

    name: str
    chosen: str | None
    steering: str | None
    tried: tuple[Tried, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything the lab found.

    Attributes:
        entries: unsteered first.
        curve: the truncation curve of the unsteered test captions.
    """

    entries: tuple[Entry, ...]
    curve: tuple[CurvePoint, ...]


def run_lab(plan: LabPlan, ask: Ask) -> Comparison:
    """Tune every contender, then measure it.

    Args:
        plan: what to compare.
        ask: answers samples under a name of its own (`validation/...`, `test/...`), steered or not.
    """
    tuning = ScenesTask(plan.validation_scenes, plan.validation_seed, yes_no=False).samples()
    samples = ScenesTask(plan.test_scenes, plan.test_seed).samples()
    lexicon = scene_lexicon()

    before = caption_scores(ask(f"validation/{UNSTEERED}", tuning, None))
    plain = ask(f"test/{UNSTEERED}", samples, None)
    entries = [Entry(UNSTEERED, None, None, (), plain)]
    for contender in plan.contenders:
        tried = {}
        for steering in contender.candidates():
            scores = caption_scores(ask(f"validation/{steering.name}", tuning, steering))
            tried[steering.name] = (steering, _tried(steering.name, scores, before, plan))
        best = choose([one for _, one in tried.values()])
        steering = tried[best.name][0]
        answers = ask(f"test/{contender.name}", samples, steering)
        entries.append(
            Entry(contender.name, best.name, steering.to_yaml(), tuple(one for _, one in tried.values()), answers)
        )
    cuts = {
        f"{TRUNCATION} ({words} words)": (words, [cut(one, words, lexicon) for one in before]) for words in plan.cuts
    }
    tried_cuts = tuple(_tried(name, scores, before, plan) for name, (_, scores) in cuts.items())
    best = choose(tried_cuts)
    answers = tuple(shortened(one, cuts[best.name][0]) for one in plain)
    entries.append(Entry(TRUNCATION, best.name, None, tried_cuts, answers))
    longest = max(len(one.words) for one in caption_scores(plain))
    return Comparison(tuple(entries), truncation_curve(caption_scores(plain), lexicon, range(2, longest + 1)))


def choose(tried: Sequence[Tried]) -> Tried:
    """The fewest invented mentions among the candidates that are allowed; where none is, the best F1."""
    allowed = [one for one in tried if one.allowed]
    if allowed:
        return min(allowed, key=lambda one: one.figures.chair_i)
    return max(tried, key=lambda one: one.figures.f1)


def figures(scores: Sequence[CaptionScore]) -> Figures:
    """What candidates are chosen by."""
    found = ratios(scores)
    return Figures(**{name: found[name].value for name in ("chair_i", "recall", "length", "f1")})


def shortened(answer: Answer, words: int) -> Answer:
    """The answer as the truncation control gives it: a description is cut, a yes or no is not."""
    if answer.fields["kind"] != "describe":
        return answer
    from dataclasses import replace

    return replace(answer, text=" ".join(answer.text.split()[:words]))


def answer_all(
    family: Family,
    samples: Sequence[Sample],
    steering: Steering | None,
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Answer, ...]:
    """Every sample's answer, in order; a batch holds samples of one kind, so that none waits for longer texts."""
    answers: dict[str, Answer] = {}
    decoding = Decoding(max_new_tokens=ScenesTask.max_new_tokens, seed=seed)
    for kind in dict.fromkeys(one.fields["kind"] for one in samples):
        mine = [one for one in samples if one.fields["kind"] == kind]
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            images = [one.picture() for one in batch if not isinstance(one.picture, Path)]
            texts = generate(family, images, [one.question for one in batch], steering, decoding)
            for one, text in zip(batch, texts, strict=True):
                count = len(text.token_ids)
                fields: Mapping[str, object] = one.fields
                answers[one.id] = Answer(one.id, one.image, one.question, text.text, count, text.finished, None, fields)
            advance(len(batch))
    return tuple(answers[one.id] for one in samples)


def _tried(name: str, scores: Sequence[CaptionScore], before: Sequence[CaptionScore], plan: LabPlan) -> Tried:
    now, then = figures(scores), figures(before)
    kept = then.recall - now.recall <= plan.recall_loss / 100 + 1e-9
    as_long = abs(now.length / then.length - 1) <= plan.length_change / 100 + 1e-9
    return Tried(name, now, kept and as_long)
