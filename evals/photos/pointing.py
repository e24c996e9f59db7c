"""Point at nouns and human expressions on photos, and at their controls; hits against masks and boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from evals.metrics import best_point_hits
from evals.photos.annotations import Noun, Referred
from evals.scenes import ExpressionSample
from grounding.errors import EmptyMapError, ExpressionError, GroundingError
from grounding.faults import attempt_one
from grounding.geometry import Box
from grounding.images import open_image
from grounding.methods import run_stages
from grounding.record_spec import RecordSpec
from grounding.text.parse import parse
from grounding.types import AttentionMaps, BoolArray, PointPrompts
from pipelines.referring import ReferringSegmentation

_DONORS = 24  # photos whose maps are kept for shuffling heads


@dataclass(frozen=True)
class Pointed:
    """Hits of one expression by the method and its controls; None where the model refused the words.

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


def noun_samples(found: Sequence[Noun]) -> Iterator[ExpressionSample]:
    """Turn nouns into samples of `evals.scenes`; a sample's other expression is another class."""
    for noun in found:
        yield ExpressionSample(noun.photo.id, open_image(noun.photo.file), noun.name, "noun", noun.truth, noun.other)


def shuffled_hits(
    pipe: ReferringSegmentation, samples: Iterator[ExpressionSample], seed: int, advance: Callable[[int], None]
) -> list[bool]:
    """Answer with every head's map taken from another photo, drawn for each head on its own.

    A control: it keeps what a head does on every photo (attend to the centre, to sinks) and removes what depends on
    this one.

    Args:
        pipe: the pipeline.
        samples: the questions.
        seed: of the draws.
        advance: called with 1 after every sample.

    Returns:
        One hit per sample.
    """
    rng = np.random.default_rng(seed)
    spec = replace(pipe.spec, reduce="none")
    asked: list[tuple[ExpressionSample, AttentionMaps | GroundingError]] = []
    donors: list[tuple[int, AttentionMaps]] = []
    hits: list[bool] = []

    def answer(sample: ExpressionSample, maps: AttentionMaps | GroundingError) -> bool:
        if isinstance(maps, GroundingError):
            return False  # a miss of the full method too
        others = [donor for photo, donor in donors if photo != sample.scene]
        return _hits(pipe, shuffle_heads(maps, others, rng), sample.truth) if others else False

    for sample in samples:
        maps = attempt_one(partial(_recorded, pipe, sample, spec))
        if isinstance(maps, GroundingError):
            pass
        elif len(donors) < _DONORS or sample.scene not in {photo for photo, _ in donors}:
            donors = [*donors[-_DONORS + 1 :], (sample.scene, maps)]
        asked.append((sample, maps))
        advance(1)
        # The first samples wait until there are enough other photos.
        if len(donors) == _DONORS:
            hits += [answer(*pair) for pair in asked]
            asked = []
    return hits + [answer(*pair) for pair in asked]


def shuffle_heads(maps: AttentionMaps, donors: Sequence[AttentionMaps], rng: np.random.Generator) -> AttentionMaps:
    """Replace every head of every layer by that of a random donor; rows are matched from the last one backwards."""
    values = maps.values.copy()
    _, layers, heads, rows, _ = values.shape
    for layer in range(layers):
        for head in range(heads):
            donor = donors[int(rng.integers(len(donors)))].values[:, layer, head]
            count = donor.shape[1]
            values[:, layer, head] = donor[:, [max(0, count - rows + row) for row in range(rows)]]
    return replace(maps, values=values)


def point_at(pipe: ReferringSegmentation, asked: Referred) -> Pointed:
    """Point at one expression, at its head noun alone, and at the centre of the picture."""
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


def _recorded(pipe: ReferringSegmentation, sample: ExpressionSample, spec: RecordSpec) -> AttentionMaps:
    return pipe.record_maps([(sample.image, sample.expression)], spec)[0]


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
