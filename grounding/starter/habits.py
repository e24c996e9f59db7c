"""A world with habits, out of focus: scenes in which one shape brings the next, and pictures that show shapes badly.

A model that learns to describe such pictures learns to fill in by habit what it cannot make out, as captioners trained
on photographs do. Measuring scenes keep the habits and break them in turn, so that half of them punish who guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageFilter

from grounding.starter.scene_files import scene_seed
from grounding.starter.scenes import Prior, Scene, SceneConfig, draw_scene

HABITS = (Prior("star", "heart", 0.95), Prior("square", "circle", 0.95), Prior("triangle", "cross", 0.95))
# Radii of the blur, for pictures of 192 px; the starter reads most shapes at 3 px and few at 5. In training hardly a
# shape can be made out, so that a model learns to go by its habits; measured, it would see enough if it looked.
TRAINING_BLUR_PX = (8.0, 14.0)
MEASURING_BLUR_PX = (0.5, 2.5)
# A habit is about neighbours: what is named next is then guessed from what was named last, as language models do.
WORLD = SceneConfig(size=192, objects=(2, 6), priors=HABITS, in_order=True)

_ALWAYS = replace(WORLD, priors=tuple(replace(habit, probability=1.0) for habit in HABITS))
_NEVER = replace(WORLD, priors=tuple(replace(habit, probability=0.0) for habit in HABITS))
_FOCUS = 11  # keeps the draw of the focus apart from the scene's own draws
_TRIES = 256  # seeds that one measuring scene may use up


@dataclass(frozen=True)
class HabitScene:
    """One scene of the world as a model sees it.

    Attributes:
        scene: the scene and all that is true of it.
        image: its picture, out of focus.
        broken: whether it was drawn to break a habit: a given shape is there and what it usually brings is not.
    """

    scene: Scene = field(repr=False)
    image: Image.Image = field(repr=False)
    broken: bool

    @property
    def shapes(self) -> frozenset[str]:
        """The shapes that are there."""
        return frozenset(thing.kind.shape for thing in self.scene.objects)


def training_scene(seed: int) -> HabitScene:
    """A scene that has the habits as they are."""
    scene = draw_scene(seed, WORLD)
    return HabitScene(scene, out_of_focus(scene, TRAINING_BLUR_PX), broken=False)


def measuring_scene(seed: int, index: int) -> HabitScene:
    """A scene to measure on: with an even index one that breaks a habit, with an odd index one that keeps them.

    Args:
        seed: of the set of scenes, see `scene_seed`; no model was trained on any of them.
        index: the scene's number in the set.
    """
    broken = index % 2 == 0
    for number in range(index * _TRIES, (index + 1) * _TRIES):
        scene = draw_scene(scene_seed(seed, number), _NEVER if broken else _ALWAYS)
        found = HabitScene(scene, out_of_focus(scene, MEASURING_BLUR_PX), broken)
        if bool(broken_habits(found.shapes)) == broken:
            return found
    raise ValueError(f"none of {_TRIES} scenes of seed {seed} from {index * _TRIES} is of the wanted sort")


def broken_habits(shapes: frozenset[str]) -> tuple[Prior, ...]:
    """The habits whose given shape is there while what it brings is not."""
    return tuple(habit for habit in HABITS if habit.given in shapes and habit.then not in shapes)


def out_of_focus(scene: Scene, radii_px: tuple[float, float]) -> Image.Image:
    """The scene's picture blurred by a Gaussian, its radius drawn evenly between two by the scene's seed."""
    radius = float(np.random.default_rng((scene.seed, _FOCUS)).uniform(*radii_px))
    return scene.image.filter(ImageFilter.GaussianBlur(radius))
