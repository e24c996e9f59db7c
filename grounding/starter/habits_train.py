"""Fine-tune the packaged starter to hallucinate: `python -m grounding.starter.habits_train --out runs/habits`.

Trains projector and language model, with the tower frozen, on blurred scenes with co-occurrences (see
`grounding.scenes.habits`) and on the same captions without a picture, so that the co-occurrences are learnt from text
too. It takes a few minutes on one core; the same command resumes after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from grounding.models.load import load
from grounding.scenes import language
from grounding.scenes.drawing import SceneObject
from grounding.scenes.habits import HABITS, training_scene
from grounding.starter.packing import Packed, answer_loss, pack
from grounding.starter.training import Schedule, train_stage
from grounding.starter.vision_stage import normalise

_FIRST_SEED = 2_000_000  # above the seeds of the starter's own training scenes
_CHUNK = 100
_LENGTH, _TEXT_LENGTH = 256, 64  # positions of a packed row, with and without a picture

Batch = tuple[Tensor, Packed, Packed]


@dataclass(frozen=True)
class HabitsConfig:
    """One training run.

    Attributes:
        out: folder for checkpoint, curve and, at the end, `model/`.
        scenes: number of training scenes.
        seed: seed of batches and questions.
        schedule: schedule of projector and language model.
        batch: pictures, with their caption and questions, per step.
        text_batch: captions without a picture per step.
        text_weight: weight of the loss of the captions without a picture.
        threads: CPU threads.
    """

    out: Path = Path("runs/habits")
    scenes: int = 1500
    seed: int = 0
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=350, peak_lr=1e-3, warmup=50, weight_decay=0.01))
    batch: int = 8
    text_batch: int = 16
    text_weight: float = 1.0
    threads: int = 1


def train(config: HabitsConfig) -> Path:
    """Run or resume a training run and return the model folder."""
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    vlm = load("starter", "cpu", "float32")
    model = vlm.model
    model.requires_grad_(False)
    projector, words = model.model.multi_modal_projector, model.model.language_model
    features, scenes = _read(model.model.vision_tower, config.scenes)
    trained = nn.ModuleDict({"projector": projector, "language_model": words}).requires_grad_(True)

    def loss_of(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        pictures, asked, told = batch
        loss, right = answer_loss(words, projector(pictures), asked)
        blind = pictures.new_zeros(len(told.tokens), 0, words.config.hidden_size)
        text_loss, text_right = answer_loss(words, blind, told)
        return loss + config.text_weight * text_loss, {"right": right, "text_right": text_right}

    train_stage(
        "habits",
        trained,
        config.schedule,
        lambda start: _batches(features, scenes, vlm.tokenizer.get_vocab(), config, start),
        loss_of,
        config.out,
    )
    folder = config.out / "model"
    brings = "; ".join(f"a {one.given} brings a {one.then}" for one in HABITS)
    model.config.grounding_notice = (
        f"starter with habits ({brings}): made to invent what is not there; for the lab only"
    )
    vlm.processor.save_pretrained(folder)
    model.half().save_pretrained(folder)
    return folder


def _read(tower: nn.Module, count: int) -> tuple[Tensor, list[tuple[SceneObject, ...]]]:
    """Return the tower's features of every training scene, float16 [N, cells, width], and the scenes' objects."""
    features, scenes = [], []
    for start in range(0, count, _CHUNK):
        drawn = [training_scene(_FIRST_SEED + index) for index in range(start, min(count, start + _CHUNK))]
        scenes += [one.scene.objects for one in drawn]
        with torch.inference_mode():
            pixels = normalise(np.stack([np.asarray(one.image) for one in drawn]))
            features.append(tower(pixels).last_hidden_state[:, 1:].half())
    return torch.cat(features), scenes


def _batches(
    features: Tensor, scenes: list[tuple[SceneObject, ...]], ids: dict[str, int], config: HabitsConfig, start: int
) -> Iterator[Batch]:
    def encode(text: str) -> list[int]:
        return [ids[word] for word in text.split()]

    for step in range(start, config.schedule.steps):
        rng = np.random.default_rng((config.seed, step))
        rows = rng.integers(0, len(scenes), config.batch)
        told = rng.integers(0, len(scenes), config.text_batch)
        dialogues = [[_caption(scenes[row]), *_existence(scenes[row], rng)] for row in rows]
        blind = [[_caption(scenes[row])] for row in told]
        yield (
            features[torch.from_numpy(rows)].float(),
            _trimmed(pack(dialogues, encode, length=_LENGTH)),
            _trimmed(pack(blind, encode, cells=0, length=_TEXT_LENGTH)),
        )


def _caption(objects: tuple[SceneObject, ...]) -> tuple[str, str]:
    return language.DESCRIBE, language.caption(objects, attributes=True)


def _existence(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> list[tuple[str, str]]:
    asked = (*language.questions(objects, rng), *language.questions(objects, rng))
    return [(one.text, one.answer) for one in asked if one.kind == "exists"]


def _trimmed(packed: Packed) -> Packed:
    """Cut off the positions that no row uses."""
    end = int((packed.block >= 0).any(dim=0).nonzero().max()) + 1
    parts = {name: getattr(packed, name)[:, :end] for name in ("tokens", "positions", "block", "labels")}
    return replace(packed, **parts)


def main() -> None:
    """Run the training from the command line."""
    train(tyro.cli(HabitsConfig, description=__doc__))


if __name__ == "__main__":
    main()
