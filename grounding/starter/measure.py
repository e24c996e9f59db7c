"""Measure a starter on scenes outside its training seeds, through the library's own `generate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grounding.scenes import language
from grounding.scenes.drawing import SHAPES, Scene, draw_scene
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM

_BATCH = 32


@dataclass(frozen=True)
class KindScore:
    """The score of one kind of question: a share in [0, 1] of `n` questions."""

    share: float
    n: int


def measure(vlm: VLM, seeds: Iterable[int]) -> dict[str, KindScore]:
    """Score a starter by kind of question.

    `locate KIND` is the share of referring expressions whose answered cell is the right one or one of its eight
    neighbours; `caption precision` and `caption recall` count the shapes named against the shapes drawn.

    Args:
        vlm: the starter, in evaluation mode.
        seeds: of the scenes, which are drawn without planted priors.
    """
    scenes = [draw_scene(seed) for seed in seeds]
    hits: dict[str, list[float]] = {}

    places = [(scene, expression) for scene in scenes for expression in language.SceneTexts(scene).expressions]
    prompts = [(scene.image, language.LOCATE.format(expression=expression.text)) for scene, expression in places]
    for (scene, expression), answer in zip(places, _answers(vlm, prompts, 3), strict=True):
        hits.setdefault(f"locate {expression.kind}", []).append(_touches(scene, expression.target_index, answer))

    asked = [(scene, question) for scene in scenes for question in language.SceneTexts(scene).questions]
    prompts = [(scene.image, question.text) for scene, question in asked]
    for (_, question), answer in zip(asked, _answers(vlm, prompts, 2), strict=True):
        hits.setdefault(question.kind, []).append(float(answer == question.answer))

    prompts = [(scene.image, language.DESCRIBE) for scene in scenes]
    for scene, text in zip(scenes, _answers(vlm, prompts, 60), strict=True):
        named = [word for word in text.split() if word in SHAPES]
        drawn = [thing.kind.shape for thing in scene.objects]
        shared = sum(min(named.count(shape), drawn.count(shape)) for shape in SHAPES)
        hits.setdefault("caption precision", []).append(shared / max(1, len(named)))
        hits.setdefault("caption recall", []).append(shared / len(drawn))
    return {kind: KindScore(float(np.mean(values)), len(values)) for kind, values in sorted(hits.items())}


def _answers(vlm: VLM, prompts: Sequence[tuple[Image.Image, str]], max_new_tokens: int) -> list[str]:
    """Greedy answers to (image, question) pairs, in order."""
    decoding = Decoding(max_new_tokens=max_new_tokens)
    texts: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        images, questions = zip(*prompts[start : start + _BATCH], strict=True)
        texts += [one.text for one in generate(vlm, images, questions, decoding=decoding)]
    return texts


def _touches(scene: Scene, target: int, answer: str) -> float:
    numbers = answer.split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return 0.0
    column, row = language.cell_of(scene.objects[target])
    return float(abs(int(numbers[0]) - column) <= 1 and abs(int(numbers[1]) - row) <= 1)
