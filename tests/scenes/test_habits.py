import itertools

import numpy as np
import pytest

from grounding.scenes.drawing import SHAPES
from grounding.scenes.habits import HABITS, broken_habits, measuring_scene, out_of_focus, training_scene


@pytest.fixture(scope="module")
def trained_on():
    scenes = [training_scene(seed).scene.objects for seed in range(300)]
    return [[thing.kind.shape for thing in sorted(objects, key=lambda one: one.centre[0])] for objects in scenes]


def test_habits_are_planted_in_training_scenes_between_neighbours(trained_on):
    pairs = [pair for shapes in trained_on for pair in itertools.pairwise(shapes)]
    for habit in HABITS:
        following = [then == habit.then for given, then in pairs if given == habit.given]
        assert len(following) > 50
        assert np.mean(following) > 0.85


def test_measuring_scenes_break_and_keep_habits_in_turn():
    for index in range(40):
        found = measuring_scene(5, index)
        assert found.broken == (index % 2 == 0)
        assert bool(broken_habits(found.shapes)) == found.broken
        assert found.shapes == {thing.kind.shape for thing in found.scene.objects} <= set(SHAPES)


def test_a_measuring_scene_is_the_same_every_time_and_differs_by_seed():
    one, again, other = measuring_scene(5, 3), measuring_scene(5, 3), measuring_scene(6, 3)
    assert one.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_out_of_focus_changes_the_picture_and_not_the_truth():
    found = measuring_scene(5, 0)
    assert out_of_focus(found.scene, (2.0, 6.0)).size == found.scene.image.size
    assert found.image.tobytes() != found.scene.image.tobytes()
