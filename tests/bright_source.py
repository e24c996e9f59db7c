"""A small source of attention maps that is not a vision-language model: every word attends to the bright cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from grounding.layout import ImageGrid
from grounding.record_spec import RecordSpec
from grounding.text.parse import parse
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word, WordKind


@dataclass
class BrightCells:
    """A `grounding.source.MapSource`. Under a generic prompt the attention is uniform.

    Attributes:
        shape: (h, w) of the grid.
        calls: the expressions, spec and prompt of every call.
    """

    shape: tuple[int, int] = (6, 8)
    name: str = "bright cells"
    notice: str | None = "It finds bright things only."
    layer_count: int = 10
    calls: list[tuple[tuple[str, ...], RecordSpec, str | None]] = field(default_factory=list)

    def maps(
        self, images: Sequence[Image.Image], expressions: Sequence[str], spec: RecordSpec, prompt: str | None = None
    ) -> list[AttentionMaps]:
        self.calls.append((tuple(expressions), spec, prompt))
        template = "{expression}" if prompt is None else prompt
        return [self._one(image, words, template, spec) for image, words in zip(images, expressions, strict=True)]

    def _one(self, image: Image.Image, expression: str, template: str, spec: RecordSpec) -> AttentionMaps:
        generic = "{expression}" not in template
        height, width = self.shape
        cells = height * width
        words = (
            *(split_words(template) if generic else parse(expression)),
            Word("<last>", (0, 0), (cells,), WordKind.SPECIAL),
        )
        light = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX), np.float32).ravel()
        row = np.ones(cells) if generic else np.exp(light / 8 - light.max() / 8)
        layers = tuple(range(self.layer_count)) if spec.layers is None else spec.layers
        values = np.broadcast_to((row / row.sum()).astype(np.float32), (1, len(layers), 1, len(words), cells))
        box = (0.0, 0.0, float(image.width), float(image.height))
        keys = np.arange(cells, dtype=np.int64)
        grid = ImageGrid(keys, self.shape, box)
        return AttentionMaps(values.copy(), layers, words, keys, (grid,), image.size, layer_count=self.layer_count)
