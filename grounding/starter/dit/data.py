"""Render training scenes for the diffusion transformer: pixels, coverage by objects and tokenised captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from grounding.scenes.drawing import Scene, SceneConfig, draw_scene
from grounding.starter.dataset import MAX_OBJECTS, fill
from grounding.starter.dit.captions import LONG_VARIANTS, SHORT_VARIANTS, long_captions, short_captions
from grounding.starter.dit.model import CELLS, IMAGE_SIZE
from grounding.starter.dit.words import MAX_TOKENS, build_t5_tokenizer

SHORT_TOKENS = 16  # of a short caption with its end token
FIRST_SEED = 20_000_000
_TEXTS = 3  # purpose of the random numbers for captions; `SceneTexts` uses 0 to 2
_NOISE = 5  # the scenes' noise of 8 at 384 px is averaged when a picture is reduced to 128 px
CONFIG = SceneConfig(size=IMAGE_SIZE, noise=_NOISE)


@dataclass(frozen=True)
class CaptionedScenes:
    """N rendered scenes.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        coverage: uint8 [N, MAX_OBJECTS, CELLS, CELLS], share of an image token's pixels that show each object, 0 to
            255; 0 beyond the last object.
        long: uint8 [N, LONG_VARIANTS, MAX_TOKENS], T5 token ids of long captions.
        short: uint8 [N, SHORT_VARIANTS, SHORT_TOKENS], T5 token ids of short captions.
        named: uint8 [N, SHORT_VARIANTS], index of the object that a short caption names first.
    """

    pixels: np.ndarray
    coverage: np.ndarray
    long: np.ndarray
    short: np.ndarray
    named: np.ndarray


def render(folder: Path, count: int, seed: int, workers: int, upto: int | None = None) -> CaptionedScenes:
    """Render `count` scenes into `folder` in parallel, resume if needed, and map the arrays.

    Args:
        folder: folder of the arrays.
        count: number of scenes.
        seed: seed of the first scene.
        workers: processes.
        upto: render only the first scenes, about this many; the rest of the arrays is still empty.
    """
    layout = {
        "pixels": ((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "coverage": ((MAX_OBJECTS, CELLS, CELLS), np.uint8),
        "long": ((LONG_VARIANTS, MAX_TOKENS), np.uint8),
        "short": ((SHORT_VARIANTS, SHORT_TOKENS), np.uint8),
        "named": ((SHORT_VARIANTS,), np.uint8),
    }
    return CaptionedScenes(**fill(folder, count, layout, partial(_draw, seed), workers, upto))


def coverage(scene: Scene) -> np.ndarray:
    """Return the share of each image token's pixels that show each object, float [objects, CELLS, CELLS]."""
    masks = np.stack([thing.mask for thing in scene.objects])
    part = scene.image.width // CELLS
    return masks.reshape(-1, CELLS, part, CELLS, part).mean(axis=(2, 4))


def _draw(first_seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    count = stop - start
    covered = np.zeros((count, MAX_OBJECTS, CELLS, CELLS), np.uint8)
    pixels, long, short, named = [], [], [], []
    for row in range(count):
        seed = first_seed + start + row
        scene = draw_scene(seed, CONFIG)
        rng = np.random.default_rng((seed, _TEXTS))
        pixels.append(np.asarray(scene.image))
        covered[row, : len(scene.objects)] = (coverage(scene) * 255).round()
        long += long_captions(scene.objects, rng)
        for text, index in short_captions(scene.objects, rng):
            short.append(text)
            named.append(index)
    return {
        "pixels": np.stack(pixels),
        "coverage": covered,
        "long": tokens(long, MAX_TOKENS).reshape(count, LONG_VARIANTS, MAX_TOKENS),
        "short": tokens(short, SHORT_TOKENS).reshape(count, SHORT_VARIANTS, SHORT_TOKENS),
        "named": np.array(named, np.uint8).reshape(count, SHORT_VARIANTS),
    }


def tokens(texts: list[str], length: int) -> np.ndarray:
    """Tokenise captions for T5 and pad them, uint8 [N, length]."""
    encoded = build_t5_tokenizer()(texts, padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded.input_ids, dtype=np.uint8)
