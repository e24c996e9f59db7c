"""Say how a picture is read by a diffusion transformer: noise, draws, size, padding, softmax."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from grounding import schema
from grounding.attention.columns import Order
from grounding.errors import ModelError
from grounding.joint_spec import Readout
from grounding.types import Direction

Pads = Literal["drop", "ignore", "keep", "mask"]
"""What becomes of padding behind a prompt:

`drop`: the prompt is encoded at its own length, so the network sees no padding. `ignore`: the network sees padding, but
maps do not: it is left out of the softmax over text. `keep`: padding is text like any other, a word of its own kind.
`mask`: the network's attention is masked, and padding is left out of the softmax.
"""

SETTINGS = "grounding.json"
"""File beside a pipeline's `model_index.json` that holds a model's own `notice`, `prompt` and `reading`."""


@dataclass(frozen=True)
class MapReading:
    """How maps are read off a diffusion transformer.

    A real picture x0 becomes latents, noise e is added as x_t = (1 - t) x0 + t e, and one forward pass is recorded.

    Attributes:
        levels: noise levels t in (0, 1), 0 clean and 1 noise; each is one entry of the maps' step axis.
        draws: noise draws per level, averaged as they run.
        seed: seed of the first draw; draw i has seed + i, whatever the picture or device.
        size: (height, width) in pixels that the picture is resized to, aspect not kept; the model's own where None.
        pads: what becomes of padding; the family's own rule where None.
        text_length: tokens that a padded prompt has, where the family's own length is not wanted.
        order: order of softmax and mean over heads; see `grounding.attention.columns`.
        direction: `image-to-word`: softmax of each cell over text; `word-to-image`: softmax of each word over all keys,
            which cross attention does not have.
        guidance: the guidance scale that a guidance-distilled model is told.

    Raises:
        ModelError: a value is out of range.

    Notes:
        RefAM (arXiv 2509.22650) does not say its noise level, draws or treatment of padding; the defaults are our
        choice. That it runs its softmax over text tokens was measured on its figures.
    """

    levels: tuple[float, ...] = (0.5,)
    draws: int = 1
    seed: int = 0
    size: tuple[int, int] | None = None
    pads: Pads | None = None
    text_length: int | None = None
    order: Order = "text"
    direction: Direction = "image-to-word"
    guidance: float = 3.5

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise ModelError(f"noise levels must lie between 0 (clean) and 1 (noise), got {self.levels}")
        if self.draws < 1:
            raise ModelError(f"draws={self.draws} was given, expected at least 1 noise draw")
        if self.size is not None and min(self.size) < 1:
            raise ModelError(f"size={self.size} was given, expected a height and a width in pixels")
        if self.text_length is not None and self.text_length < 1:
            raise ModelError(f"text_length={self.text_length} was given, expected at least 1 token")
        for name, value, known in (("order", self.order, Order), ("direction", self.direction, Direction)):
            if value not in get_args(known):
                raise ModelError(f"{name}={value!r} is unknown: use {', '.join(get_args(known))}")
        if self.pads is not None and self.pads not in get_args(Pads):
            raise ModelError(f"pads={self.pads!r} is unknown: use {', '.join(get_args(Pads))}")

    def under(self, readout: Readout) -> MapReading:
        """The reading with a method's noise levels and draws in place of the model's own, where it names them."""
        draws = self.draws if readout.draws is None else readout.draws
        return replace(self, levels=readout.levels or self.levels, draws=draws)


@dataclass(frozen=True)
class ModelSettings:
    """What a model says about itself.

    Attributes:
        notice: one sentence that every run with the model must show, or None.
        prompt: template with one `{expression}`, or None.
        reading: how a picture is read.
    """

    notice: str | None = None
    prompt: str | None = None
    reading: MapReading = MapReading()


def read_settings(folder: Path) -> ModelSettings:
    """Read a model's own settings; the defaults where it has none.

    Args:
        folder: the pipeline's folder.

    Raises:
        ModelError: the file is not JSON, or a key or value in it is wrong.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return ModelSettings()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise ModelError(f"{path} cannot be read as JSON ({' '.join(str(wrong).split())})") from wrong
    return schema.build(ModelSettings, data, str(path), ModelError)
