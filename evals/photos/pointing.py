"""Where words point on photos: nouns against masks and human expressions against boxes, each beside its controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from evals.metrics import best_point_hits
from evals.photos.annotations import Noun, Referred
from evals.scenes import Sample
from grounding.errors import EmptyMapError, ExpressionError
from grounding.images import open_image
from grounding.methods import run_stages
from grounding.text.parse import parse
from grounding.types import AttentionMaps, BoolArray, Box, PointPrompts
from pipelines.referring import ReferringSegmentation

_DONORS = 24  # photos kept to take shuffled heads from


@dataclass(frozen=True)
class Pointed:
    """Hits of one expression under the method and its controls; None where it was refused.

    Attributes:
        photo: the photo's id.
        full: the whole expression.
        head: its head noun alone.
        centre: the picture's centre.
    """

    photo: int
    full: bool | None
    head: bool | None
    centre: bool


def noun_samples(found: Sequence[Noun]) -> Iterator[Sample]:
    """Nouns as samples of the evaluation that scenes have too; a sample's other words are another class."""
    for noun in found:
        yield Sample(noun.photo.id, open_image(noun.photo.file), noun.name, "noun", noun.truth, noun.other)


def shuffled_hits(
    pipe: ReferringSegmentation, samples: Iterator[Sample], seed: int, advance: Callable[[int], None]
) -> list[bool]:
    """Hits when every head's map comes from another photo, drawn for each head alone.

    What a head does on any photo (look at the centre, at sinks) is kept, what it sees in this one is not.

    Args:
        pipe: what is measured.
        samples: the questions.
        seed: of the draws.
        advance: told after every sample.
    """
    rng = np.random.default_rng(seed)
    spec = replace(pipe.spec, reduce="none")
    asked: list[tuple[Sample, AttentionMaps]] = []
    donors: list[tuple[int, AttentionMaps]] = []
    hits: list[bool] = []

    def answer(sample: Sample, maps: AttentionMaps) -> bool:
        others = [donor for photo, donor in donors if photo != sample.scene]
        return _hits(pipe, shuffle_heads(maps, others, rng), sample.truth) if others else False

    for sample in samples:
        maps = pipe.record_maps([(sample.image, sample.expression)], spec)[0]
        if len(donors) < _DONORS or sample.scene not in {photo for photo, _ in donors}:
            donors = [*donors[-_DONORS + 1 :], (sample.scene, maps)]
        asked.append((sample, maps))
        advance(1)
        # The first ones wait until there are other photos to take from.
        if len(donors) == _DONORS:
            hits += [answer(*pair) for pair in asked]
            asked = []
    return hits + [answer(*pair) for pair in asked]


def shuffle_heads(maps: AttentionMaps, donors: Sequence[AttentionMaps], rng: np.random.Generator) -> AttentionMaps:
    """The maps with each layer's each head taken from a donor; rows are matched from the last one backwards."""
    values = maps.values.copy()
    _, layers, heads, rows, _ = values.shape
    for layer in range(layers):
        for head in range(heads):
            donor = donors[int(rng.integers(len(donors)))].values[:, layer, head]
            count = donor.shape[1]
            values[:, layer, head] = donor[:, [max(0, count - rows + row) for row in range(rows)]]
    return replace(maps, values=values)


def point_at(pipe: ReferringSegmentation, asked: Referred) -> Pointed:
    """Ask for one expression, for its head noun alone, and for the centre."""
    image = open_image(asked.photo.file)
    truth = box_mask(asked.box_xyxy, image.size)
    centre = PointPrompts(
        np.array([[image.width / 2, image.height / 2]], np.float32), np.ones(1, np.int64), np.ones(1, np.float32)
    )
    heads = [word.text for word in parse(asked.expression) if word.is_head]
    return Pointed(
        photo=asked.photo.id,
        full=_asked(pipe, image, asked.expression, truth),
        head=_asked(pipe, image, heads[0], truth) if heads else None,
        centre=best_point_hits(centre, truth),
    )


def box_mask(box_xyxy: Box, size: tuple[int, int]) -> BoolArray:
    """bool [H, W] with the box filled."""
    width, height = size
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    x0, y0, x1, y1 = box_xyxy
    return ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None]


def _asked(pipe: ReferringSegmentation, image: Image.Image, words: str, truth: BoolArray) -> bool | None:
    try:
        return _hits(pipe, pipe.record_maps([(image, words)])[0], truth)
    except ExpressionError:
        return None


def _hits(pipe: ReferringSegmentation, maps: AttentionMaps, truth: BoolArray) -> bool:
    try:
        return best_point_hits(pipe.method.points(run_stages(pipe.method, maps)), truth)
    except (EmptyMapError, ExpressionError):
        return False
