"""Evaluate points and masks on drawn scenes, whose true masks are exact, and what each part of a method adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from PIL import Image

from evals.ablation import ablations
from evals.asked_once import AskedOnce
from evals.bench.segmenter import deepest_point
from evals.metrics import Outcome, gave_up, judge
from evals.recordings import shared_recordings
from grounding.ensemble import Ensemble
from grounding.errors import EmptyMapError, ExpressionError, GroundingError, MethodError, RecordingError
from grounding.faults import attempt_one
from grounding.methods import Method, run_stages
from grounding.record_spec import RecordSpec
from grounding.scenes.drawing import Scene, draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import Expression, SceneTexts
from grounding.segmenters.mask_selection import MaskRule, predict_mask
from grounding.types import AttentionMaps, BoolArray, PointPrompts
from pipelines.referring import ReferringSegmentation

FULL = "full method"
CENTRE = "point at the image's centre"
OTHER = "words for another object"
TRUTH = "point inside the target"

_PURPOSE = 3  # a seed of its own for the choice of expressions, apart from the scene's draws


@dataclass(frozen=True)
class ExpressionSample:
    """One referring expression and its target.

    Attributes:
        scene: the number of its scene; samples of one scene are resampled together.
        image: the picture.
        expression: the words.
        kind: what kind of expression it is: plain, attribute, position or relation.
        truth: bool [H, W], the target's visible pixels.
        other: an expression for another object of the scene; None where there is none.
    """

    scene: int
    image: Image.Image = field(repr=False)
    expression: str
    kind: str
    truth: BoolArray = field(repr=False)
    other: str | None = None


@dataclass(frozen=True)
class Answers:
    """Outcomes of every sample under every variant.

    Attributes:
        scenes: per sample its scene's number.
        kinds: per sample the kind of its expression.
        outcomes: per variant one outcome per sample; None where there is no other object to ask for.
    """

    scenes: tuple[int, ...]
    kinds: tuple[str, ...]
    outcomes: dict[str, tuple[Outcome | None, ...]]


def draw_samples(seed: int, limit: int, per_scene: int = 1) -> Iterator[ExpressionSample]:
    """Samples from the scenes that `grounding scenes` writes for the same seed, in their order.

    Args:
        seed: of the set of scenes.
        limit: how many samples.
        per_scene: most expressions taken of one scene, drawn at random. With 1 the samples are independent.
    """
    index = count = 0
    while count < limit:
        number = scene_seed(seed, index)
        scene = draw_scene(number)
        generator = np.random.default_rng((number, _PURPOSE))
        expressions = SceneTexts(scene).expressions
        chosen = generator.permutation(len(expressions))[: min(per_scene, limit - count)]
        for pick in chosen.tolist():
            yield _sample(scene, expressions, index, pick, generator)
        index, count = index + 1, count + len(chosen)


def answer_samples(
    pipe: ReferringSegmentation,
    samples: Iterator[ExpressionSample],
    *,
    ablate: bool = False,
    methods: Mapping[str, Method] | None = None,
    advance: Callable[[int], None] = lambda count: None,
    failed: Callable[[ExpressionSample, GroundingError], None] = lambda sample, error: None,
) -> Answers:
    """Record every sample once and evaluate all variants on the same recording.

    The model runs once per sample, prompt, list of magnets and flow, once per background (and for the words of another
    object), the segmenter's encoder once per image; each variant then runs its own stages on the recorded maps.

    Args:
        pipe: the pipeline that is measured.
        samples: the questions.
        ablate: also the method with each of its parts switched off.
        methods: other methods by name, compared with the pipeline's own.
        advance: called with how many samples have been answered since the last call.
        failed: called with a sample that model or segmenter refuse, and the error; it counts as a miss of the variants
            that it concerns.

    Returns:
        The outcomes of the full method, of the controls and, where asked for, of the ablations and other methods.
    """
    pipe = ReferringSegmentation(
        pipe.source, AskedOnce(pipe.segmenter), pipe.method, pipe.batch_size, concepts=pipe.concepts
    )
    models = pipe.source.member_names if isinstance(pipe.source, Ensemble) else ()
    variants = {FULL: pipe.method} | (ablations(pipe.method, models) if ablate else {}) | dict(methods or {})
    recordings = shared_recordings(variants, pipe.source.layer_count)
    scenes: list[int] = []
    kinds: list[str] = []
    outcomes: dict[str, list[Outcome | None]] = {name: [] for name in (*variants, CENTRE, OTHER, TRUTH)}
    for batch in _batches(samples, pipe.batch_size):
        pairs = [(sample.image, sample.expression) for sample in batch]
        maps = [recording.record(pipe, pairs) for recording in recordings]
        asked = [(sample.image, sample.other) for sample in batch if sample.other]
        others = iter(recordings[0].record(pipe, asked, [FULL]) if asked else ())
        for index, sample in enumerate(batch):
            recorded = {name: one for each in maps for name, one in each[index].items()}
            scenes.append(sample.scene)
            kinds.append(sample.kind)
            other = next(others)[FULL] if sample.other else None
            found = attempt_one(partial(_outcomes, pipe, sample, variants, recorded, other))
            for error in (found, *recorded.values(), other):
                if isinstance(error, GroundingError):
                    failed(sample, error)
                    break
            if isinstance(found, GroundingError):
                found = {name: None if other is None and name == OTHER else gave_up(sample.truth) for name in outcomes}
            for name, outcome in found.items():
                outcomes[name].append(outcome)
        advance(len(batch))
    return Answers(tuple(scenes), tuple(kinds), {name: tuple(found) for name, found in outcomes.items()})


def fitting(
    pipe: ReferringSegmentation,
    methods: Mapping[str, Method],
    sample: ExpressionSample,
    left_out: Callable[[str, GroundingError], None],
) -> dict[str, Method]:
    """The methods that can be run on the pipeline's source, found out on one sample.

    Args:
        pipe: the pipeline.
        methods: by name.
        sample: any sample that the source can be asked about.
        left_out: called with the name of a method that does not fit the source, and why.
    """
    kept = {}
    pair = [(sample.image, sample.expression)]
    for name, method in methods.items():
        try:
            spec = method.record_spec(pipe.source.layer_count)
            (maps,) = pipe.record_maps(pair, spec.without_background(), method)
            if spec.has_background:
                maps = replace(maps, background=_background(pipe, pair, spec, method))
            run_stages(method, maps)
        except (RecordingError, MethodError) as why:
            left_out(name, why)
            continue
        except (EmptyMapError, ExpressionError):
            pass  # the sample's words, not the method
        kept[name] = method
    return kept


def _background(
    pipe: ReferringSegmentation, pair: list[tuple[Image.Image, str]], spec: RecordSpec, method: Method
) -> AttentionMaps:
    try:
        return pipe.record_backgrounds(pair, spec, method)[0]
    except ExpressionError as wrong:
        raise MethodError(f"its background cannot be recorded: {wrong}") from wrong


def _sample(
    scene: Scene, expressions: Sequence[Expression], index: int, pick: int, generator: np.random.Generator
) -> ExpressionSample:
    expression = expressions[pick]
    others = [other.text for other in expressions if other.target_index != expression.target_index]
    return ExpressionSample(
        scene=index,
        image=scene.image,
        expression=expression.text,
        kind=expression.kind,
        truth=scene.objects[expression.target_index].mask,
        other=others[generator.integers(len(others))] if others else None,
    )


def _outcomes(
    pipe: ReferringSegmentation,
    sample: ExpressionSample,
    variants: Mapping[str, Method],
    recorded: Mapping[str, AttentionMaps | GroundingError],
    other: AttentionMaps | GroundingError | None,
) -> dict[str, Outcome | None]:
    """One sample's outcomes by variant."""
    pipe.encode(sample.image)
    return {
        **{name: _answer(pipe, sample, recorded[name], method) for name, method in variants.items()},
        CENTRE: _point(pipe, sample, _centre(sample.image)),
        OTHER: None if other is None else _answer(pipe, sample, other, pipe.method),
        TRUTH: _point(pipe, sample, deepest_point(sample.truth)),
    }


def _answer(
    pipe: ReferringSegmentation, sample: ExpressionSample, maps: AttentionMaps | GroundingError, method: Method
) -> Outcome:
    """One variant's answer; a miss where there are no maps, an empty one, or no word that the method reads."""
    if isinstance(maps, GroundingError):
        return gave_up(sample.truth)
    try:
        heatmap = run_stages(method, maps)
        points = method.points(heatmap)
    except (EmptyMapError, ExpressionError):
        return gave_up(sample.truth)
    answer = pipe.ask(sample.image, sample.expression, maps, heatmap, points, method)
    return judge(points, answer.segment, sample.truth)


def _point(pipe: ReferringSegmentation, sample: ExpressionSample, point: PointPrompts) -> Outcome:
    """A control's answer: a point that does not come from the model, and the segmenter's own choice of the mask."""
    return judge(point, predict_mask(pipe.segmenter, point, rule=MaskRule("iou", specks=0.0)), sample.truth)


def _centre(image: Image.Image) -> PointPrompts:
    return PointPrompts(
        xy=np.array([[image.width / 2, image.height / 2]], np.float32),
        label=np.ones(1, np.int64),
        weight=np.ones(1, np.float32),
    )


def _batches(samples: Iterator[ExpressionSample], size: int) -> Iterator[Sequence[ExpressionSample]]:
    batch: list[ExpressionSample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
