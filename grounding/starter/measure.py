"""What a starter model gets right on scenes it has never seen, asked through its own processor and `generate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from grounding.starter import language
from grounding.starter.scenes import SHAPES, Scene, draw_scene

if TYPE_CHECKING:
    from PIL import Image
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_BATCH = 32


@dataclass(frozen=True)
class Score:
    """A share in [0, 1] of `n` questions."""

    share: float
    n: int


def ask(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    pairs: Sequence[tuple[Image.Image, str]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to (image, question) pairs, in order."""
    answers: list[str] = []
    for start in range(0, len(pairs), _BATCH):
        chunk = pairs[start : start + _BATCH]
        texts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                add_generation_prompt=True,
            )
            for _, question in chunk
        ]
        inputs = processor(text=texts, images=[image for image, _ in chunk], padding=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=max_new_tokens)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def measure(model: LlavaForConditionalGeneration, processor: LlavaProcessor, seeds: Iterable[int]) -> dict[str, Score]:
    """Scores by kind of question.

    `locate KIND` is the share of referring expressions whose answered cell is the right one or touches it;
    `caption precision` and `caption recall` count shapes named against shapes drawn.

    Args:
        model: the starter, in evaluation mode.
        processor: its processor.
        seeds: scenes to ask about, drawn without planted priors.
    """
    scenes = [draw_scene(seed) for seed in seeds]
    hits: dict[str, list[float]] = {}

    places = [(scene, expression) for scene in scenes for expression in language.SceneTexts(scene).expressions]
    prompts = [(scene.image, language.LOCATE.format(expression=expression.text)) for scene, expression in places]
    for (scene, expression), answer in zip(places, ask(model, processor, prompts, 3), strict=True):
        hits.setdefault(f"locate {expression.kind}", []).append(_touches(scene, expression.target_index, answer))

    asked = [(scene, question) for scene in scenes for question in language.SceneTexts(scene).questions]
    prompts = [(scene.image, question.text) for scene, question in asked]
    for (_, question), answer in zip(asked, ask(model, processor, prompts, 2), strict=True):
        hits.setdefault(question.kind, []).append(float(answer == question.answer))

    for scene, text in zip(
        scenes, ask(model, processor, [(s.image, language.DESCRIBE) for s in scenes], 60), strict=True
    ):
        named = [word for word in text.split() if word in SHAPES]
        drawn = [thing.kind.shape for thing in scene.objects]
        shared = sum(min(named.count(shape), drawn.count(shape)) for shape in SHAPES)
        hits.setdefault("caption precision", []).append(shared / max(1, len(named)))
        hits.setdefault("caption recall", []).append(shared / len(drawn))
    return {kind: Score(float(np.mean(values)), len(values)) for kind, values in sorted(hits.items())}


def _touches(scene: Scene, target: int, answer: str) -> float:
    numbers = answer.split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return 0.0
    column, row = language.cell_of(scene.objects[target])
    return float(abs(int(numbers[0]) - column) <= 1 and abs(int(numbers[1]) - row) <= 1)
