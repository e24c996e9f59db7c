"""Write the trained transformer as a pipeline folder: half-precision weights, curves, scores and model card."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import diffusers
import torch
import transformers
from rich.console import Console

from grounding.files import write_json, write_text
from grounding.starter.dit.captions import LONG_VARIANTS, SHORT_VARIANTS
from grounding.starter.dit.data import SHORT_TOKENS
from grounding.starter.dit.measure import HELD_FIRST, HELD_SCENES, LEVELS, HeldOut, TextUse, held_out, text_use
from grounding.starter.dit.model import CELLS, IMAGE_SIZE
from grounding.starter.dit.words import WORDS

if TYPE_CHECKING:
    from diffusers import FluxPipeline

    from grounding.starter.dit.stages import Denoising

READ_LEVEL = 0.5
NOTICE = (
    "starter-dit: a small diffusion transformer that knows drawn scenes only (six shapes, eight colours, two sizes, "
    "two patterns); for photographs name a hub model with --model"
)
_WATCHED_LEVELS, _WATCHED_SCENES = (0.6, 0.8), 48  # measured at every checkpoint
_console = Console(stderr=True)
_Model = TypeVar("_Model", bound=torch.nn.Module)

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [grounding, flux, synthetic]
---
# Starter diffusion transformer

A text-to-image model of {parameters:.1f} M parameters that knows **drawn scenes only**: {words} words, six shapes,
eight colours, two sizes, two patterns. It exists so that attention maps of diffusion transformers can be run and tested
with nothing to download. It is useless on photographs.

- Classes: `FluxPipeline` of `FluxTransformer2DModel` ({double} double and {single} single blocks, {heads} heads x
  {head_width}), `T5EncoderModel` ({text_layers} layers, width {text_width}), `CLIPTextModel` (pooled vector),
  `AutoencoderKL` (factor 4, {channels} channels), `FlowMatchEulerDiscreteScheduler`. {pixels} px, {cells} x {cells}
  image tokens. Weights are stored in float16 and are meant to be run in float32.
- Text: one token a word, case ignored; trained at {short} tokens (short captions) and {long} (all); padding is attended
  to, as in FLUX.
- Sampling: `FluxPipeline.from_pretrained(FOLDER)(prompt, height={pixels}, width={pixels}, true_cfg_scale=2.0,
  negative_prompt="", max_sequence_length={long})`.

## Training

{training}

- Data: drawn scenes with {long_variants} long and {short_variants} short captions each; long ones describe every
  object, short ones are referring expressions or describe one or two objects. Half of the steps take short captions.
  Captions are dropped with probability 0.1, the pooled vector's with 0.5.
- The loss weighs image tokens with objects more, and the object that a short caption names most. Noise levels are
  logit-normal around 0.62.
- The transformer, T5 and CLIP start from random weights and are trained together; an average of their weights is
  shipped.
- Loss curves are in `curve.json`, the figures below in `scores.json`.

## Does it use its text?

Flow-matching loss on {scenes} scenes never seen (seeds from {first:,}), with the same noise for every column: over all
objects for long captions, over the named object for short ones. The image is read at noise level {read}.

| noise level | long caption | of another scene | short caption | of another scene | empty caption |
|---|---|---|---|---|---|
{losses}

## Where does it look?

Share of referring expressions whose map, the attention from image to text tokens (softmax over the text tokens of a
head, mean over heads and blocks), is highest on the named object: for all content words, and for those of the first
noun phrase. {expressions}

| noise level | content words | first noun phrase | each block |
|---|---|---|---|
{pointing}

{samples}Measured with torch {torch}, diffusers {diffusers}, transformers {transformers}, Python {python}.
"""

_PLAIN = "Trained for denoising alone: no attention map was a target."
_ALIGNED = (
    "Beside denoising, an auxiliary term (weight {alignment}) wants the words of a named object to be attended to from "
    "that object: **attention maps were a target in training**, so what they show is not what denoising alone teaches."
)


class Exporter:
    """Write the averaged weights at every checkpoint, and scores and card at the end.

    Args:
        pipe: the pipeline in training.
        denoising: its transformer and text encoders with their average.
        out: the training run's folder.
        curves: loss curve by stage, filled as the stages end.
        run: one sentence on the run, for the card.
    """

    def __init__(self, pipe: FluxPipeline, denoising: Denoising, out: Path, curves: dict[str, Any], run: str) -> None:
        self.folder = out / "model"
        self._pipe, self._denoising, self._curves, self._run = pipe, denoising, curves, run
        self._watched = held_out(pipe.vae, _WATCHED_SCENES)

    def save(self, step: int) -> None:
        """Write the weights as they are now, and print how the text is used."""
        self._write_pipeline()
        report(step, self._measured(self._watched, _WATCHED_LEVELS))

    def finish(self) -> Path:
        """Write weights, curves, scores and card, and return the folder."""
        self._write_pipeline()
        uses = self._measured(held_out(self._pipe.vae, HELD_SCENES), LEVELS)
        report("average", uses)
        write_json(self.folder / "curve.json", self._curves, indent=1)
        write_json(self.folder / "scores.json", [asdict(use) for use in uses], indent=1)
        alignment = self._denoising.alignment
        term = _ALIGNED.format(alignment=alignment) if alignment else _PLAIN
        write_text(self.folder / "README.md", card(self._pipe, uses, f"- {self._run}\n- {term}"))
        return self.folder

    def _measured(self, held: HeldOut, levels: Sequence[float]) -> list[TextUse]:
        return text_use(self._denoising.averaged, held, levels)

    def _write_pipeline(self) -> None:
        average = self._denoising.averaged
        parts: dict[str, torch.nn.Module] = {
            "transformer": average.transformer,
            "text_encoder": average.clip,
            "text_encoder_2": average.t5,
        }
        write_pipeline(self._pipe, parts, self.folder)


def write_pipeline(pipe: FluxPipeline, parts: dict[str, torch.nn.Module], folder: Path) -> None:
    """Save a pipeline with other weights in some parts, in float16, to be loaded in float32.

    Args:
        pipe: the pipeline.
        parts: models that take the place of the pipeline's, by name.
        folder: output folder.
    """
    names = ("vae", "text_encoder", "text_encoder_2", "transformer")
    models = {name: _half(parts.get(name, getattr(pipe, name))) for name in names}
    others = {name: getattr(pipe, name) for name in ("scheduler", "tokenizer", "tokenizer_2")}
    type(pipe)(**models, **others).save_pretrained(folder)
    for name in names:
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # of the folder that training began from
        if name.startswith("text_encoder"):
            # transformers loads in the config's dtype, diffusers in float32: without this a pipeline would mix both.
            config["dtype"] = "float32"
        write_json(path, config, indent=2)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer_2"] = ["transformers", "PreTrainedTokenizerFast"]  # the name that every supported version has
    write_json(folder / "model_index.json", index, indent=2)
    reading = {"levels": [READ_LEVEL], "pads": "keep", "text_length": SHORT_TOKENS}
    write_json(folder / "grounding.json", {"notice": NOTICE, "reading": reading}, indent=1)


def _half(model: _Model) -> _Model:
    """Copy a model to the CPU in float16."""
    copied = copy.deepcopy(model).to("cpu", torch.float16)
    return copied.to(memory_format=torch.contiguous_format).eval()


def card(pipe: FluxPipeline, uses: Sequence[TextUse], training: str, samples: str = "") -> str:
    """Write the model card.

    Args:
        pipe: the trained pipeline.
        uses: figures by noise level.
        training: how it was trained, as a list in Markdown.
        samples: how its samples were judged, a section in Markdown.
    """
    models = (pipe.vae, pipe.text_encoder, pipe.text_encoder_2, pipe.transformer)
    shape, text = pipe.transformer.config, pipe.text_encoder_2.config
    return _CARD.format(
        parameters=sum(p.numel() for model in models for p in model.parameters()) / 1e6,
        words=len(WORDS),
        double=shape.num_layers,
        single=shape.num_single_layers,
        heads=shape.num_attention_heads,
        head_width=shape.attention_head_dim,
        text_layers=text.num_layers,
        text_width=text.d_model,
        channels=pipe.vae.config.latent_channels,
        pixels=IMAGE_SIZE,
        cells=CELLS,
        short=SHORT_TOKENS,
        long=pipe.tokenizer_2.model_max_length,
        training=training,
        long_variants=LONG_VARIANTS,
        short_variants=SHORT_VARIANTS,
        scenes=uses[0].scenes,
        first=HELD_FIRST,
        read=READ_LEVEL,
        losses="\n".join(
            _row(u.level, *(f"{v:.4f}" for v in (u.long_right, u.long_shuffled, u.right, u.shuffled, u.empty)))
            for u in uses
        ),
        expressions=f"{uses[0].expressions} expressions of the same scenes.",
        pointing="\n".join(
            _row(u.level, f"{u.pointing:.3f}", f"{u.head:.3f}", " ".join(f"{v:.2f}" for v in u.head_by_block))
            for u in uses
        ),
        samples=f"{samples}\n\n" if samples else "",
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def report(step: object, uses: Sequence[TextUse]) -> None:
    """Print one line per noise level."""
    for use in uses:
        _console.print(
            f"{step} level {use.level:.1f}: loss {use.right:.4f}, shuffled {use.shuffled:.4f}, empty {use.empty:.4f}; "
            f"pointing {use.pointing:.3f}, first noun phrase {use.head:.3f}",
            highlight=False,
        )
