"""Measure which image tokens move when one column or one row of a picture changes.

The decoder never runs: a pass ends where the features of the vision tower have taken the image tokens' places among the
input embeddings. While the tower runs, each place reads itself alone; see `grounding.models.probing.own_place`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grounding.errors import ModelError
from grounding.models.probing.own_place import OwnPlace
from grounding.types import BoolArray, FloatArray

GREY, BRIGHT = (90, 90, 90), (255, 0, 200)
BANDS = 128  # most bands per axis
BATCH = 16  # pictures in one pass
STILL = 1e-3  # of the most moved token's movement: less is none

Encode = Callable[[list[Image.Image]], Mapping[str, Any]]
"""Makes the model's inputs of pictures of one size, each in the same prompt."""


@dataclass(frozen=True)
class Movement:
    """How far each of n image tokens moves when a band of the picture changes.

    Attributes:
        columns: [n, bands] distance between embeddings for the bands from left to right.
        rows: [n, bands] the same for the bands from top to bottom.
        seen: [n] whether a token moves with any of the tower's input, which a cell of padding does and a separator does
            not.
        size: (width, height) of the picture in pixels.
        passes: pictures that the vision tower read.
        seconds: that this took.
    """

    columns: FloatArray  # [n, bands]
    rows: FloatArray  # [n, bands]
    seen: BoolArray  # [n]
    size: tuple[int, int]
    passes: int
    seconds: float

    def first_half(self) -> Movement:
        """The movement of the first half of the tokens: those of the first of two pictures."""
        half = len(self.columns) // 2
        return replace(self, columns=self.columns[:half], rows=self.rows[:half], seen=self.seen[:half])


def measure(
    model: Any, encode: Encode, image_token_id: int, size: tuple[int, int], bands: int = BANDS, batch: int = BATCH
) -> Movement:
    """Change one band of a grey picture at a time, and see how far the image tokens' embeddings move.

    A band is one pixel wide, or wider where the picture has more pixels than `bands`.

    Args:
        model: a transformers model for image-text generation.
        encode: makes its inputs of a list of pictures.
        image_token_id: the id of the tokens that the tower's outputs replace.
        size: (width, height) of the pictures in pixels.
        bands: most bands per axis.
        batch: pictures in one pass.

    Raises:
        ModelError: the model's decoder is not given embeddings of the image tokens.
    """
    began = time.perf_counter()
    plain = Image.new("RGB", size, GREY)
    changed = [*_bands(plain, 0, bands), *_bands(plain, 1, bands)]
    found: list[FloatArray] = []
    for start in range(0, len(changed), batch):
        part = changed[start : start + batch]
        # The plain picture is read in each pass, so that both sides of a difference come from one batch.
        seen = image_embeddings(model, encode([plain, *part]), image_token_id)
        found.append((seen[1:] - seen[:1]).norm(dim=-1).cpu().numpy())
    moved = np.concatenate(found).T  # [n, bands of both axes]
    alone = encode([plain])
    noisy = image_embeddings(model, _with_noise(alone), image_token_id)
    shift = (noisy - image_embeddings(model, alone, image_token_id))[0].norm(dim=-1).cpu().numpy()
    split = _count(size[0], bands)
    passes = len(changed) + -(-len(changed) // batch) + 2
    return Movement(
        moved[:, :split],
        moved[:, split:],
        shift > STILL * shift.max(),
        size,
        passes,
        time.perf_counter() - began,
    )


def image_embeddings(model: Any, inputs: Mapping[str, Any], image_token_id: int) -> Tensor:
    """What the decoder is given at the image tokens, where each place of the tower reads itself alone.

    Args:
        model: a transformers model for image-text generation.
        inputs: its inputs, for prompts of one length and as many image tokens each.
        image_token_id: the id of the image tokens.

    Returns:
        [B, n, hidden] float32, on the model's device.

    Raises:
        ModelError: the decoder is not called with embeddings, or the prompts have no image tokens.
    """
    seen: list[Tensor] = []

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is not None:
            seen.append(embeddings)
        raise _EndOfPassError

    handle = model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.inference_mode(), OwnPlace():
            model(**inputs, use_cache=False)
    except _EndOfPassError:
        pass
    finally:
        handle.remove()
    at = inputs["input_ids"] == image_token_id  # [B, N]
    if not seen or not bool(at.any()):
        raise ModelError(
            f"{type(model).__name__} gives its decoder no embeddings of image tokens, so probing cannot see where its "
            "cells lie: only models that call their decoder with embeddings of both words and cells can be probed"
        )
    (embeddings,) = seen
    return embeddings[at.to(embeddings.device)].reshape(len(at), -1, embeddings.shape[-1]).float()


class _EndOfPassError(Exception):
    """Ends a forward pass before the decoder."""


def _with_noise(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with noise on what was made of the picture, the padding included."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + torch.randn(value.shape, generator=generator).to(value)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }


def _count(length: int, bands: int) -> int:
    return min(length, bands)


def band_edges(length: int, bands: int) -> FloatArray:
    """(b + 1,) edges, in whole pixels, of the b bands of an axis."""
    return np.linspace(0, length, _count(length, bands) + 1).round().astype(np.float32)


def _bands(plain: Image.Image, axis: int, bands: int) -> list[Image.Image]:
    """The picture with one band of an axis changed, for each band."""
    edges, changed = band_edges(plain.size[axis], bands), []
    for low, high in pairwise(edges.tolist()):
        one = plain.copy()
        box = (int(low), 0, int(high), plain.height) if axis == 0 else (0, int(low), plain.width, int(high))
        one.paste(BRIGHT, box)
        changed.append(one)
    return changed
