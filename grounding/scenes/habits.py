"""Draw blurred scenes with strong co-occurrences of shapes, to train and to measure object hallucination.

A model trained on captions of such pictures names co-occurring shapes that it cannot see, as captioners trained on
photographs do. Measuring scenes keep and break the co-occurrences in turn, so guessing is wrong on half of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageFilter

from grounding.scenes.drawing import Prior, Scene, SceneConfig, draw_scene
from grounding.scenes.files import scene_seed

HABITS = (Prior("star", "heart", 0.95), Prior("square", "circle", 0.95), Prior("triangle", "cross", 0.95))
# Radii of the Gaussian blur, for pictures of 192 px; a small model recognises most shapes at 3 px and few at 5.
# Training pictures hide nearly all shapes, so that the model relies on co-occurrence; measuring pictures show enough.
TRAINING_BLUR_PX = (8.0, 14.0)
MEASURING_BLUR_PX = (0.5, 2.5)
# A co-occurrence is one of neighbours, so the next noun of a caption can be guessed from the last one.
WORLD = SceneConfig(size=192, objects=(2, 6), priors=HABITS, in_order=True)

_ALWAYS = replace(WORLD, priors=tuple(replace(habit, probability=1.0) for habit in HABITS))
_NEVER = replace(WORLD, priors=tuple(replace(habit, probability=0.0) for habit in HABITS))
_FOCUS = 11  # separates the draw of the blur from the scene's own draws
_TRIES = 256  # seeds tried for one measuring scene


@dataclass(frozen=True)
class HabitScene:
    """One blurred scene.

    Attributes:
        scene: the scene, with its objects.
        image: the blurred picture.
        broken: True if a co-occurrence is broken: a `given` shape is present and its `then` shape is not.
    """

    scene: Scene = field(repr=False)
    image: Image.Image = field(repr=False)
    broken: bool

    @property
    def shapes(self) -> frozenset[str]:
        """The shapes that are present."""
        return frozenset(thing.kind.shape for thing in self.scene.objects)


def training_scene(seed: int) -> HabitScene:
    """Draw a training scene, with the co-occurrences at their probabilities."""
    scene = draw_scene(seed, WORLD)
    return HabitScene(scene, out_of_focus(scene, TRAINING_BLUR_PX), broken=False)


def measuring_scene(seed: int, index: int) -> HabitScene:
    """Draw a measuring scene: at an even index one that breaks a co-occurrence, at an odd index one that keeps all.

    Args:
        seed: seed of the set of scenes, see `scene_seed`; no packaged model was trained on them.
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
    """Return the co-occurrences whose `given` shape is present and whose `then` shape is not."""
    return tuple(habit for habit in HABITS if habit.given in shapes and habit.then not in shapes)


def out_of_focus(scene: Scene, radii_px: tuple[float, float]) -> Image.Image:
    """Blur the scene's picture by a Gaussian; the radius is drawn uniformly between two, by the scene's seed."""
    radius = float(np.random.default_rng((scene.seed, _FOCUS)).uniform(*radii_px))
    return scene.image.filter(ImageFilter.GaussianBlur(radius))
