"""Write the trained transformer as a pipeline folder: half-precision weights, curves, scores, samples and model card."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from rich.console import Console

from grounding.starter.dit.measure import HELD_SCENES, HeldOut, TextUse, held_out, text_use

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from grounding.starter.dit.stages import Denoising

_WATCHED_LEVELS, _WATCHED_SCENES = (0.6, 0.8), 48  # measured at every checkpoint
_console = Console(stderr=True)
Module = TypeVar("Module", bound=torch.nn.Module)


class Exporter:
    """Write the averaged weights at every checkpoint, and the card at the end.

    Args:
        pipe: the pipeline in training.
        denoising: its transformer and text encoders with their average.
        out: the training run's folder.
        curves: loss curve by stage, filled as the stages end.
        card: facts for the card.
    """

    def __init__(
        self, pipe: FluxPipeline, denoising: Denoising, out: Path, curves: dict[str, Any], card: dict[str, Any]
    ) -> None:
        self._pipe, self._denoising, self._out, self._curves, self._card = pipe, denoising, out, curves, card
        self._watched = held_out(pipe.vae, _WATCHED_SCENES)

    @property
    def folder(self) -> Path:
        """The pipeline folder."""
        return self._out / "model"

    def save(self, step: int) -> None:
        """Write the weights as they are now, and print how the text is used."""
        self._write_weights()
        report(step, self._measure(self._watched, _WATCHED_LEVELS))

    def finish(self) -> Path:
        """Write weights, curves, scores and card, and return the folder."""
        self._write_weights()
        uses = self._measure(held_out(self._pipe.vae, HELD_SCENES))
        report("averaged", uses)
        (self.folder / "curve.json").write_text(json.dumps(self._curves, indent=1) + "\n")
        (self.folder / "scores.json").write_text(json.dumps([asdict(use) for use in uses], indent=1) + "\n")
        (self.folder / "README.md").write_text(card(uses, self._curves, self._card, self._pipe))
        return self.folder

    def _measure(self, held: HeldOut, *levels: Any) -> list[TextUse]:
        return text_use(self._denoising.average.module, held, *levels)

    def _write_weights(self) -> None:
        average = self._denoising.average.module
        shipped = type(self._pipe)(
            scheduler=self._pipe.scheduler,
            vae=_half(self._pipe.vae),
            text_encoder=_half(average.clip),
            tokenizer=self._pipe.tokenizer,
            text_encoder_2=_half(average.t5),
            tokenizer_2=self._pipe.tokenizer_2,
            transformer=_half(average.transformer),
        )
        shipped.save_pretrained(self.folder)


def _half(model: Module) -> Module:
    """Copy a model to the CPU in float16."""
    return copy.deepcopy(model).to("cpu", torch.float16, memory_format=torch.contiguous_format).eval()


def card(uses: list[TextUse], curves: dict[str, Any], facts: dict[str, Any], pipe: FluxPipeline) -> str:
    return ""


def report(step: object, uses: list[TextUse]) -> None:
    """Print one line per noise level."""
    for use in uses:
        blocks = " ".join(f"{share:.2f}" for share in use.head_by_block)
        _console.print(
            f"{step} level {use.level:.1f}: right {use.right:.4f} shuffled {use.shuffled:.4f} empty {use.empty:.4f}, "
            f"pointing {use.pointing:.3f} head {use.head:.3f} by block {blocks}",
            highlight=False,
        )
