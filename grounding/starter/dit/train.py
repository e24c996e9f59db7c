"""Train the starter diffusion transformer: `python -m grounding.starter.dit.train --out runs/dit`.

Renders the scenes, trains the autoencoder, encodes all scenes once, trains the transformer with its text encoders, and
writes a pipeline folder with its card. Every step is kept in the output folder, so the same command resumes after an
interruption; the pipeline folder is written anew at every checkpoint. Middle noise levels come first. Nothing is
downloaded.

Without a GPU the defaults take two to three hours on two cores. On one, raise the batch and limit the stages by time,
for example `--vae-batch 128 --vae.seconds 60 --flow-batch 512 --flow.steps 1000000 --flow.seconds 300 --scenes 120000`.

By default the model learns to denoise and nothing else. `--alignment 0.3`, with which the packaged model's last stage
was trained (`--start runs/dit/model --out runs/dit-aligned`), makes attention maps a target as well.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from grounding.starter.dit.data import FIRST_SEED, CaptionedScenes, render
from grounding.starter.dit.export import Exporter
from grounding.starter.dit.model import DitShape, build
from grounding.starter.dit.stages import CaptionedLatents, Denoising, Reconstruction, encode, pictures
from grounding.starter.training import Schedule, train_stage

if TYPE_CHECKING:
    from diffusers import FluxPipeline

_console = Console(stderr=True)


@dataclass(frozen=True)
class DitTrainConfig:
    """One training run.

    Attributes:
        out: folder for scenes, checkpoints, curves and the pipeline folder `model/`.
        scenes: number of training scenes.
        seed: seed of weights, batches and noise.
        shape: size of the networks.
        vae: schedule of the autoencoder.
        vae_batch: pictures per step.
        vae_scenes: number of scenes that the autoencoder sees; the others are rendered meanwhile.
        flow: schedule of the transformer and its text encoders.
        flow_batch: pictures with one caption each per step.
        flow_widening: steps over which the noise levels spread out from the middle.
        alignment: weight of a term that wants the words of a named object to be attended to from that object, beside
            the denoising; 0 trains for denoising alone.
        start: pipeline folder to begin from instead of random weights; its autoencoder is kept as it is.
        device: where to train, as torch names it; None takes a GPU where there is one.
        threads: CPU threads.
        workers: processes that render.
    """

    out: Path = Path("runs/dit")
    scenes: int = 30_000
    seed: int = 0
    shape: DitShape = field(default_factory=DitShape)
    vae: Schedule = field(default_factory=lambda: Schedule(steps=1_500, peak_lr=1e-3, warmup=50))
    vae_batch: int = 8
    vae_scenes: int = 10_000
    flow: Schedule = field(default_factory=lambda: Schedule(steps=6_000, peak_lr=1e-3, matrix_lr=2e-3))
    flow_batch: int = 16
    flow_widening: int = 3_000
    alignment: float = 0.0
    start: Path | None = None
    device: str | None = None
    threads: int = 2
    workers: int = 2


def train(config: DitTrainConfig) -> Path:
    """Run or resume a training run and return the pipeline folder."""
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("high")
    # The backward pass of cuDNN's attention reads outside its memory for these strides (torch 2.11, H100).
    torch.backends.cuda.enable_cudnn_sdp(False)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe = _pipeline(config)
    curves = {}
    rendered = functools.partial(render, config.out / "scenes", config.scenes, FIRST_SEED, config.workers)
    pipe.vae.to(device)
    if config.start is None:
        scenes = rendered(upto=config.vae_scenes)
        rest = get_context("spawn").Process(target=rendered)
        rest.start()
        seen = min(config.vae_scenes, config.scenes)
        reconstruction = Reconstruction(pipe.vae).to(memory_format=torch.channels_last)
        curves["vae"] = train_stage(
            "vae",
            nn.ModuleDict({"reconstruction": reconstruction}),
            config.vae,
            functools.partial(pictures, scenes, seen, config.vae_batch, config.seed, device),
            reconstruction,
            config.out,
        )
        rest.join()
    scenes = rendered()
    latents = _latents(pipe, scenes, config.out / "latents.pt", device)
    torch.manual_seed(config.seed)
    denoising = Denoising(pipe, config.alignment).to(device)
    if device.type == "cuda":
        pipe.transformer.compile_repeated_blocks(dynamic=False)
    run = f"`python -m grounding.starter.dit.train`, seed {config.seed}, {config.scenes:,} scenes, on {device.type}."
    exporter = Exporter(pipe, denoising, config.out, curves, run)
    curves["flow"] = train_stage(
        "flow",
        nn.ModuleDict({"denoising": denoising}),
        config.flow,
        functools.partial(
            CaptionedLatents(latents, scenes, device).batches, config.flow_batch, config.seed, config.flow_widening
        ),
        denoising,
        config.out,
        exporter.save,
    )
    return exporter.finish()


def _latents(pipe: FluxPipeline, scenes: CaptionedScenes, path: Path, device: torch.device) -> Tensor:
    """Return all scenes' latents, normalised; keep them in `path` and their scale in the autoencoder's config."""
    if not path.exists():
        _console.print("encoding the scenes", highlight=False)
        latents = encode(pipe.vae, scenes, device)
        torch.save(latents.cpu(), path)
    latents = torch.load(path, weights_only=True)
    sample = latents[:5000].float()
    if pipe.vae.config.scaling_factor == 1.0:  # not one that a folder brought
        pipe.vae.register_to_config(scaling_factor=1 / sample.std().item(), shift_factor=sample.mean().item())
    return ((latents.float() - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor).half()


def _pipeline(config: DitTrainConfig) -> FluxPipeline:
    if config.start is None:
        return build(config.seed, config.shape)
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(config.start)  # in float32, as the folder says


def main() -> None:
    """Run the training from the command line."""
    train(tyro.cli(DitTrainConfig, description=__doc__))


if __name__ == "__main__":
    main()
