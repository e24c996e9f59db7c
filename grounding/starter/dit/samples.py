"""Draw samples and let the starter vision-language model judge them: `python -m grounding.starter.dit.samples`.

Every prompt describes one to three objects of a scene never seen. The judge is asked about every described object, and
about one that was not described; the same questions about the drawn scene's own picture, at the same size, say how far
the judge can be trusted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console

from grounding.files import write_json
from grounding.scenes.drawing import COLOURS, SHAPES, SceneConfig, SceneObject, draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import name
from grounding.starter.dit.captions import place
from grounding.starter.dit.model import IMAGE_SIZE
from grounding.starter.dit.words import MAX_TOKENS

if TYPE_CHECKING:
    from diffusers import FluxPipeline

_MOST_OBJECTS = 3
_console = Console(stderr=True)


@dataclass(frozen=True)
class SamplesConfig:
    """Which samples to draw.

    Attributes:
        model: pipeline folder.
        out: folder for `samples.png` and `judged.json`.
        count: number of prompts.
        seed: seed of scenes and noise.
        steps: denoising steps.
        guidance: classifier-free guidance; 1 is none.
        batch: prompts at a time.
        sheet: pictures on the sheet.
    """

    model: Path = Path(__file__).parent / "weights"
    out: Path = Path("runs/dit-samples")
    count: int = 48
    seed: int = 0
    steps: int = 20
    guidance: float = 2.0
    batch: int = 16
    sheet: int = 12


@dataclass(frozen=True)
class AskedSample:
    """A prompt with questions: about its objects (answer yes) and about an absent object (answer no)."""

    prompt: str
    present: tuple[str, ...]
    absent: str
    drawn: Image.Image


@dataclass(frozen=True)
class JudgedSample:
    """Shares of "yes" in [0, 1]: for described and for absent objects, on samples and on the drawn scenes."""

    prompts: int
    described_in_samples: float
    absent_in_samples: float
    described_in_drawn: float
    absent_in_drawn: float


def prompts(count: int, seed: int) -> list[AskedSample]:
    """Draw scenes of at most three objects with their prompts and questions."""
    asked = []
    for index in range(count):
        scene = draw_scene(scene_seed(seed, index), SceneConfig(size=IMAGE_SIZE, objects=(1, _MOST_OBJECTS)))
        described = [f"{_noun(thing)} {place(thing)}" for thing in scene.objects]
        text = described[0] if len(described) == 1 else f"{' , '.join(described[:-1])} and {described[-1]}"
        present = tuple(dict.fromkeys(_question(thing.kind.colour, thing.kind.shape) for thing in scene.objects))
        asked.append(AskedSample(text, present, _absent(scene.objects, scene.seed), scene.image))
    return asked


def draw(pipe: FluxPipeline, texts: Sequence[str], config: SamplesConfig) -> list[Image.Image]:
    """Sample one picture per prompt."""
    pictures: list[Image.Image] = []
    for start in range(0, len(texts), config.batch):
        part = list(texts[start : start + config.batch])
        random = torch.Generator().manual_seed(config.seed + start)
        pictures += pipe(
            part,
            negative_prompt=[""] * len(part) if config.guidance > 1 else None,
            true_cfg_scale=config.guidance,
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=config.steps,
            max_sequence_length=MAX_TOKENS,
            generator=random,
        ).images
        _console.print(f"{len(pictures)} of {len(texts)} pictures", highlight=False)
    return pictures


def judge(asked: Sequence[AskedSample], pictures: Sequence[Image.Image]) -> JudgedSample:
    """Ask the starter vision-language model about the samples and about the drawn pictures."""
    from grounding.models.load import load
    from grounding.steering.decoding import Decoding
    from grounding.steering.generate import generate

    vlm = load("starter")

    def yes(images: Sequence[Image.Image], questions: Sequence[str]) -> float:
        answers = generate(vlm, images, questions, decoding=Decoding(max_new_tokens=2))
        return float(np.mean([answer.text.strip() == "yes" for answer in answers]))

    def both(images: Sequence[Image.Image]) -> tuple[float, float]:
        pairs = [(image, question) for image, one in zip(images, asked, strict=True) for question in one.present]
        return yes(*zip(*pairs, strict=True)), yes(images, [one.absent for one in asked])

    return JudgedSample(len(asked), *both(pictures), *both([one.drawn for one in asked]))


def sheet(asked: Sequence[AskedSample], pictures: Sequence[Image.Image], path: Path) -> None:
    """Save the samples side by side, each under its prompt."""
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), layout="constrained")
    for index, (one, picture) in enumerate(zip(asked, pictures, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture)
        axes.set_title(textwrap.fill(one.prompt, 36), fontsize=7)
        axes.axis("off")
    figure.savefig(path, dpi=100)


def _noun(thing: SceneObject) -> str:
    noun = name(thing.kind, [a for a in ("size", "pattern", "colour") if getattr(thing.kind, a) != "plain"])
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _question(colour: str, shape: str) -> str:
    return f"is there {'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape} ?"


def _absent(objects: Sequence[SceneObject], seed: int) -> str:
    present = {(thing.kind.colour, thing.kind.shape) for thing in objects}
    free = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in present]
    return _question(*free[np.random.default_rng(seed).integers(len(free))])


def main() -> None:
    """Draw and judge samples from the command line."""
    from dataclasses import asdict

    from diffusers import FluxPipeline

    config = tyro.cli(SamplesConfig, description=__doc__)
    pipe = FluxPipeline.from_pretrained(config.model)
    pipe.set_progress_bar_config(disable=True)
    asked = prompts(config.count, config.seed)
    pictures = draw(pipe, [one.prompt for one in asked], config)
    config.out.mkdir(parents=True, exist_ok=True)
    sheet(asked[: config.sheet], pictures[: config.sheet], config.out / "samples.png")
    judged = judge(asked, pictures)
    write_json(config.out / "judged.json", asdict(judged))
    _console.print(judged)


if __name__ == "__main__":
    main()
