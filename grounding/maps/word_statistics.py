"""Measure how much of an image's attention each word has, and how that is spread over the image."""

from __future__ import annotations

import numpy as np

from grounding.maps.base import image_columns
from grounding.types import AttentionMaps, FloatArray


def word_maps(maps: AttentionMaps) -> FloatArray:
    """Each word's weights on the image's cells [T, C], mean over steps, layers and heads; absolute where signed."""
    cells = maps.values[..., image_columns(maps)]
    return np.abs(cells.mean(axis=(0, 1, 2), dtype=np.float64)).astype(np.float32)


def image_shares(maps: AttentionMaps) -> FloatArray:
    """Each word's share [T] of the weights between all words and the image; they sum to 1, or are 0 without weights.

    For image-to-word maps with a softmax over words this is the mean over cells of the cell's weight on the word.
    """
    mass = word_maps(maps).sum(axis=1, dtype=np.float64)
    total = float(mass.sum())
    return (mass / total if total > 0 else np.zeros_like(mass)).astype(np.float32)


def spatial_variations(maps: AttentionMaps) -> FloatArray:
    """Each word's coefficient of variation [T] over the image's cells: standard deviation / mean, 0 if spread evenly.

    A word that attracts much attention and has a small variation tells nothing about places.
    """
    rows = word_maps(maps).astype(np.float64)
    mean = rows.mean(axis=1)
    return np.divide(rows.std(axis=1), mean, out=np.zeros_like(mean), where=mean > 0).astype(np.float32)
