"""Pointing and masks on drawn scenes, whose truth is exact: from words to a mask, and what each part adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from evals.ablation import ablations, shared_knobs
from evals.bench.segmenter import deepest_point
from evals.metrics import Outcome, gave_up, judge
from grounding.errors import EmptyMapError, ExpressionError
from grounding.methods import Method, run_stages
from grounding.segmenters.mask_selection import predict_mask
from grounding.starter.scene_files import scene_seed
from grounding.starter.scenes import Scene, draw_scene
from grounding.types import AttentionMaps, BoolArray, PointPrompts
from pipelines.referring import ReferringSegmentation

FULL = "full method"
CENTRE = "point at the image's centre"
OTHER = "words for another object"
TRUTH = "point inside the target"

_PURPOSE = 3  # keeps the choice of expressions apart from the scene's own draws


@dataclass(frozen=True)
class Sample:
    """One question with its answer.

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
        outcomes: per variant one outcome a sample; None where the variant cannot be asked (no other object).
    """

    scenes: tuple[int, ...]
    kinds: tuple[str, ...]
    outcomes: dict[str, tuple[Outcome | None, ...]]


def draw_samples(seed: int, limit: int, per_scene: int = 1) -> Iterator[Sample]:
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
        chosen = generator.permutation(len(scene.expressions))[: min(per_scene, limit - count)]
        for pick in chosen.tolist():
            yield _sample(scene, index, pick, generator)
        index, count = index + 1, count + len(chosen)


def answer_samples(
    pipe: ReferringSegmentation,
    samples: Iterator[Sample],
    *,
    ablate: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Answers:
    """Ask every sample once and read all variants off the same recording.

    The model runs once a sample (and once for the words of another object), the segmenter's encoder once an image;
    every variant then goes its own way from the recorded maps.

    Args:
        pipe: what is measured.
        samples: the questions.
        ablate: also the method with each of its parts switched off.
        advance: told how many samples have been answered since the last call.

    Returns:
        The outcomes of the full method, of the controls and, where asked for, of the ablations.
    """
    methods = {FULL: pipe.method} | (ablations(pipe.method) if ablate else {})
    knobs = shared_knobs(methods.values(), pipe.vlm.layer_count)
    scenes: list[int] = []
    kinds: list[str] = []
    outcomes: dict[str, list[Outcome | None]] = {name: [] for name in (*methods, CENTRE, OTHER, TRUTH)}
    for batch in _batches(samples, pipe.batch_size):
        maps = pipe.look([(sample.image, sample.expression) for sample in batch], knobs)
        asked = [sample for sample in batch if sample.other]
        others = iter(pipe.look([(s.image, s.other) for s in asked if s.other], knobs) if asked else ())
        for sample, recorded in zip(batch, maps, strict=True):
            scenes.append(sample.scene)
            kinds.append(sample.kind)
            pipe.encode(sample.image)
            for name, method in methods.items():
                outcomes[name].append(_answer(pipe, sample, recorded, method))
            outcomes[OTHER].append(_answer(pipe, sample, next(others), pipe.method) if sample.other else None)
            outcomes[CENTRE].append(_point(pipe, sample, _centre(sample.image)))
            outcomes[TRUTH].append(_point(pipe, sample, deepest_point(sample.truth)))
        advance(len(batch))
    return Answers(tuple(scenes), tuple(kinds), {name: tuple(found) for name, found in outcomes.items()})


def _sample(scene: Scene, index: int, pick: int, generator: np.random.Generator) -> Sample:
    expression = scene.expressions[pick]
    others = [other.text for other in scene.expressions if other.target_index != expression.target_index]
    return Sample(
        scene=index,
        image=scene.image,
        expression=expression.text,
        kind=expression.kind,
        truth=scene.objects[expression.target_index].mask,
        other=others[generator.integers(len(others))] if others else None,
    )


def _answer(pipe: ReferringSegmentation, sample: Sample, maps: AttentionMaps, method: Method) -> Outcome:
    """One variant's answer; a method that finds nothing to point at has missed."""
    try:
        heatmap = run_stages(method, maps)
        points = method.points(heatmap)
    except (EmptyMapError, ExpressionError):
        return gave_up(sample.truth)
    return judge(points, pipe.ask(heatmap, points, sample.expression, method), sample.truth)


def _point(pipe: ReferringSegmentation, sample: Sample, point: PointPrompts) -> Outcome:
    """A control's answer: a point that owes nothing to the model, and the segmenter's own estimate of the mask."""
    return judge(point, predict_mask(pipe.segmenter, point, rule="iou"), sample.truth)


def _centre(image: Image.Image) -> PointPrompts:
    return PointPrompts(
        xy=np.array([[image.width / 2, image.height / 2]], np.float32),
        label=np.ones(1, np.int64),
        weight=np.ones(1, np.float32),
    )


def _batches(samples: Iterator[Sample], size: int) -> Iterator[Sequence[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
