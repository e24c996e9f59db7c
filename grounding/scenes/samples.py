"""Drawn scenes as calibration samples for the attention heads of a model that knows the scenes' vocabulary."""

from __future__ import annotations

from functools import partial

import numpy as np

from grounding.scenes.drawing import draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import DESCRIBE, SceneTexts
from grounding.steering.samples import CalibrationSample, Source


def scene_samples(count: int, seed: int) -> list[Source]:
    """Make samples of drawn scenes that no packaged model was trained on.

    The question is `DESCRIBE`, the answer the scene's long caption, the mask the union of its objects.

    Args:
        count: number of samples.
        seed: seed of the set, from 0.
    """
    return [partial(_sample, seed, index) for index in range(count)]


def _sample(seed: int, index: int) -> CalibrationSample:
    scene = draw_scene(scene_seed(seed, index))
    objects = np.logical_or.reduce([thing.mask for thing in scene.objects])
    return CalibrationSample(scene.image, DESCRIBE, SceneTexts(scene).captions[0], mask=objects)
