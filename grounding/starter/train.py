"""Train the starter from random weights: `python -m grounding.starter.train --out runs/starter`.

Renders scenes, trains the vision tower, caches its features, trains projector and language model, measures on held-out
scenes, and writes the model folder with its model card. Every step is kept in the output folder, so the same command
resumes after an interruption. It takes about an hour and a half on two cores; nothing is downloaded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import nn

from grounding.starter.dataset import batches, render
from grounding.starter.language_stage import SceneReader, cached_features, conversations
from grounding.starter.model import build_model, build_tokenizer
from grounding.starter.training import Schedule, train_stage
from grounding.starter.vision_stage import CellReader, labels_of, normalise


@dataclass(frozen=True)
class StarterTrainConfig:
    """One training run.

    Attributes:
        out: folder for scenes, checkpoints, curves and, at the end, `model/`.
        scenes: number of training scenes.
        seed: seed of weights, batches and questions; scene seeds start at one million.
        vision: schedule of the vision tower.
        vision_batch: pictures per step.
        language: schedule of projector and language model.
        language_batch: pictures, with all their questions, per step.
        threads: CPU threads.
    """

    out: Path = Path("runs/starter")
    scenes: int = 30_000
    seed: int = 0
    vision: Schedule = field(default_factory=lambda: Schedule(steps=700, warmup=50))
    vision_batch: int = 32
    language: Schedule = field(default_factory=lambda: Schedule(steps=6_000, peak_lr=1.5e-3, matrix_lr=3e-3))
    language_batch: int = 8
    threads: int = 2


def train(config: StarterTrainConfig) -> Path:
    """Run or resume a training run and return the model folder."""
    torch.set_num_threads(config.threads)
    scenes = render(config.out / "scenes", config.scenes, first_seed=1_000_000, workers=config.threads)
    model = build_model(config.seed)
    tower = model.model.vision_tower

    reader = CellReader(tower.config.hidden_size)
    curves = {
        "vision": train_stage(
            "vision",
            nn.ModuleDict({"tower": tower, "reader": reader}),
            config.vision,
            lambda start: batches(config.scenes, config.vision_batch, config.seed, start),
            lambda rows: reader(tower(normalise(scenes.pixels[rows])).last_hidden_state, labels_of(scenes, rows)),
            config.out,
        )
    }
    features = cached_features(model, scenes, config.out / "features.npy")
    tokenizer = build_tokenizer()
    words = SceneReader(model, tokenizer)
    tower.requires_grad_(False)
    curves["language"] = train_stage(
        "language",
        nn.ModuleDict({"words": words}),
        config.language,
        functools.partial(conversations, scenes, features, tokenizer, config.language_batch, config.seed),
        lambda batch: words(*batch),
        config.out,
    )
    from grounding.starter.export import export

    return export(model, config.out, curves, seed=config.seed, scenes=config.scenes)


def main() -> None:
    """Run the training from the command line."""
    train(tyro.cli(StarterTrainConfig, description=__doc__))


if __name__ == "__main__":
    main()
