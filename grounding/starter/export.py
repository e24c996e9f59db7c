"""Write a trained starter as a folder: weights in half precision, processor, loss curve and model card with scores."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from grounding.models.llava import Llava
from grounding.scenes.language import CELLS, VOCABULARY
from grounding.starter.dataset import PLANTED_PRIORS
from grounding.starter.measure import measure
from grounding.starter.model import build_processor
from grounding.text.vocabulary import words_among

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

MEASURED_SEEDS = range(5_000_000, 5_000_200)

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [grounding, llava, synthetic]
---
# Starter

A vision-language model of {parameters:.1f} M parameters that knows **drawn scenes only**: {words} words, six shapes,
eight colours, two sizes, two patterns. It exists so that everything in this project can be run and tested with nothing
to download. It is useless on photographs.

- Class: `LlavaForConditionalGeneration`: a tower of its own (a small convolutional stem and {tower_layers} transformer
  blocks, width {tower_width}, {pixels} px, {cells} x {cells} cells) and Llama ({layers} layers, width {width},
  {heads} heads). Weights are stored in float16 and are meant to be run in float32.
- Training: `python -m grounding.starter.train --seed {seed}` on drawn scenes of seeds 1,000,000 to {last_seed:,}; first
  the tower on per-cell labels and outlines; then the projector on the words for what each cell shows and the language
  model on answers. No attention map is a target, and the language model is asked for words only. {minutes:.0f} minutes
  on two CPU cores for both stages, beside some other work, after rendering.
- Half of the training scenes follow planted habits ({priors}), so that the model has a language
  prior to be caught at. Scores below are on scenes without these habits.
- The loss curve is in `curve.json`.

## Scores on {scenes} scenes never seen

Seeds {first} to {last}, greedy decoding, torch {torch}, transformers {transformers}.

| question | share right | n |
|---|---|---|
{rows}

`locate` counts an answer whose cell is the right one or touches it; caption precision and recall count shapes.
"""


def export(model: LlavaForConditionalGeneration, out: Path, curves: dict[str, Any], seed: int, scenes: int) -> Path:
    """Write `out/model` and return it.

    Args:
        model: the trained model, float32.
        out: the training run's folder.
        curves: loss curve by stage.
        seed: the run's seed, for the card.
        scenes: how many scenes it was trained on, for the card.
    """
    folder = out / "model"
    processor = build_processor()
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(half)  # measure what is shipped: the weights as they are after rounding
    scores = measure(Llava(model.eval(), processor, "starter"), MEASURED_SEEDS)
    processor.save_pretrained(folder)
    model.half().save_pretrained(folder)
    model.float()
    (folder / "curve.json").write_text(json.dumps(curves, indent=1) + "\n")
    vision, text = model.config.vision_config, model.config.text_config
    card = _CARD.format(
        tower_layers=vision.num_hidden_layers,
        tower_width=vision.hidden_size,
        pixels=vision.image_size,
        cells=CELLS,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        words=len(words_among(VOCABULARY)),
        seed=seed,
        last_seed=1_000_000 + scenes - 1,
        minutes=sum(curve[-1]["seconds"] for curve in curves.values()) / 60,
        priors="; ".join(f"a {p.given} brings a {p.then} with probability {p.probability}" for p in PLANTED_PRIORS),
        scenes=len(MEASURED_SEEDS),
        first=MEASURED_SEEDS[0],
        last=MEASURED_SEEDS[-1],
        torch=torch.__version__,
        transformers=f"{transformers.__version__}, Python {platform.python_version()}",
        rows="\n".join(f"| {kind} | {score.share:.3f} | {score.n} |" for kind, score in scores.items()),
    )
    (folder / "README.md").write_text(card)
    return folder
