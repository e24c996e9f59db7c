"""Drawn scenes as calibration samples for the attention heads of a model that knows the scenes' vocabulary."""

from __future__ import annotations

from functools import partial

import numpy as np

from grounding.localization.samples import HeadSample
from grounding.localization.samples import Source as HeadSource
from grounding.scenes.drawing import draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import DESCRIBE, SceneTexts
from grounding.steering.samples import CalibrationSample, Source

_PURPOSE = 17  # a seed of its own for the choice of expressions, apart from the scene's draws


def scene_samples(count: int, seed: int) -> list[Source]:
    """Make samples of drawn scenes that no packaged model was trained on.

    The question is `DESCRIBE`, the answer the scene's long caption, the mask the union of its objects.

    Args:
        count: number of samples.
        seed: seed of the set, from 0.
    """
    return [partial(_sample, seed, index) for index in range(count)]


def head_samples(count: int, seed: int) -> list[HeadSource]:
    """Make samples of drawn scenes for ranking heads: an expression, another one, and the thing's mask.

    The answer is the scene's long caption, of which the word is the thing's shape.

    Args:
        count: number of samples.
        seed: seed of the set, from 0.
    """
    return [partial(_head_sample, seed, index) for index in range(count)]


def _head_sample(seed: int, index: int) -> HeadSample:
    number = scene_seed(seed, index)
    scene = draw_scene(number)
    texts, generator = SceneTexts(scene), np.random.default_rng((number, _PURPOSE))
    expressions = texts.expressions
    asked = expressions[generator.integers(len(expressions))]
    others = [one.text for one in expressions if one.target_index != asked.target_index]
    thing = scene.objects[asked.target_index]
    return HeadSample(
        scene.image,
        asked.text,
        others[generator.integers(len(others))] if others else None,
        thing.mask,
        DESCRIBE,
        texts.captions[0],
        thing.kind.shape,
    )


def _sample(seed: int, index: int) -> CalibrationSample:
    scene = draw_scene(scene_seed(seed, index))
    objects = np.logical_or.reduce([thing.mask for thing in scene.objects])
    return CalibrationSample(scene.image, DESCRIBE, SceneTexts(scene).captions[0], mask=objects)
