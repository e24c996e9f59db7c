from __future__ import annotations

import numpy as np
import pytest

from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES, Prior, SceneConfig, draw_scene
from grounding.scenes.language import SceneTexts


def test_a_seed_draws_the_same_scene_twice():
    one, two = draw_scene(11), draw_scene(11)
    assert one.image.tobytes() == two.image.tobytes()
    assert [t.kind for t in one.objects] == [t.kind for t in two.objects]
    assert SceneTexts(one).expressions == SceneTexts(two).expressions
    assert SceneTexts(one).questions == SceneTexts(two).questions
    assert draw_scene(12).image.tobytes() != one.image.tobytes()


def test_the_world_is_as_large_as_promised():
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(SIZES) >= 2
    assert len(PATTERNS) >= 2


@pytest.mark.parametrize("seed", range(12))
def test_masks_are_disjoint_and_mostly_visible(seed: int):
    config = SceneConfig(size=192)
    scene = draw_scene(seed, config)
    assert config.objects[0] <= len(scene.objects) <= config.objects[1]
    stacked = np.stack([thing.mask for thing in scene.objects])
    assert stacked.sum(axis=0).max() == 1
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box_xyxy
        assert 0 <= x0 < x1 <= 192
        assert 0 <= y0 < y1 <= 192
        low, _ = SIZES["small"]
        assert thing.mask.sum() >= config.min_visible * 0.5 * (low * 192) ** 2


@pytest.mark.parametrize("seed", range(12))
def test_the_mask_covers_pixels_of_the_object_s_colour(seed: int):
    scene = draw_scene(seed, SceneConfig(noise=0))
    pixels = np.asarray(scene.image).astype(float)
    for thing in scene.objects:
        if thing.kind.pattern == "plain":
            inside = np.median(pixels[thing.mask], axis=0)
            nearest = min(COLOURS, key=lambda name: float(np.abs(inside - COLOURS[name]).sum()))
            assert nearest == thing.kind.colour


def test_planted_priors_change_how_often_things_appear_together():
    def share(priors: tuple[Prior, ...]) -> float:
        config = SceneConfig(size=48, priors=priors)
        shapes = [{t.kind.shape for t in draw_scene(seed, config).objects} for seed in range(250)]
        given = [s for s in shapes if "star" in s]
        return sum("heart" in s for s in given) / len(given)

    assert share((Prior("star", "heart", 0.95),)) > share(()) + 0.3
