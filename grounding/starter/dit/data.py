"""Render training scenes for the diffusion transformer: pixels, coverage by objects and tokenised captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from grounding.scenes.drawing import Scene, SceneConfig, draw_scene
from grounding.starter.dataset import fill
from grounding.starter.dit.captions import LONG_VARIANTS, SHORT_VARIANTS, long_captions, short_captions
from grounding.starter.dit.model import IMAGE_SIZE, LATENTS, SCALE
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
        coverage: uint8 [N, LATENTS, LATENTS], share of a latent's pixels that show any object, 0 to 255.
        long: uint8 [N, LONG_VARIANTS, MAX_TOKENS], T5 token ids of long captions.
        short: uint8 [N, SHORT_VARIANTS, SHORT_TOKENS], T5 token ids of short captions.
    """

    pixels: np.ndarray
    coverage: np.ndarray
    long: np.ndarray
    short: np.ndarray


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
        "coverage": ((LATENTS, LATENTS), np.uint8),
        "long": ((LONG_VARIANTS, MAX_TOKENS), np.uint8),
        "short": ((SHORT_VARIANTS, SHORT_TOKENS), np.uint8),
    }
    return CaptionedScenes(**fill(folder, count, layout, partial(_draw, seed), workers, upto))


def coverage(scene: Scene, side: int) -> np.ndarray:
    """Return the share of each cell's pixels that show any object, float [side, side]."""
    part = scene.image.width // side
    shown = np.logical_or.reduce([thing.mask for thing in scene.objects])
    return shown.reshape(side, part, side, part).mean(axis=(1, 3))


def _draw(first_seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    pixels, covered, long, short = [], [], [], []
    for seed in range(first_seed + start, first_seed + stop):
        scene = draw_scene(seed, CONFIG)
        rng = np.random.default_rng((seed, _TEXTS))
        pixels.append(np.asarray(scene.image))
        covered.append((coverage(scene, IMAGE_SIZE // SCALE) * 255).round())
        long += long_captions(scene.objects, rng)
        short += short_captions(scene.objects, rng)
    count = stop - start
    return {
        "pixels": np.stack(pixels),
        "coverage": np.stack(covered).astype(np.uint8),
        "long": tokens(long, MAX_TOKENS).reshape(count, LONG_VARIANTS, MAX_TOKENS),
        "short": tokens(short, SHORT_TOKENS).reshape(count, SHORT_VARIANTS, SHORT_TOKENS),
    }


def tokens(texts: list[str], length: int) -> np.ndarray:
    """Tokenise captions for T5 and pad them, uint8 [N, length]."""
    encoded = build_t5_tokenizer()(texts, padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded.input_ids, dtype=np.uint8)
