"""Maps of cells over text tokens made in memory: each cell's weights are a softmax of logits that the test chooses."""

from __future__ import annotations

import numpy as np

from grounding.layout import ImageGrid
from grounding.types import AttentionMaps, Word, WordKind


def text_words(*entries: tuple[str, str], head: str = "") -> tuple[Word, ...]:
    """Words of one token each from (text, kind), at positions from 0; spans as if joined by blanks."""
    found, start = [], 0
    for index, (text, kind) in enumerate(entries):
        placed = kind not in ("special", "magnet")
        span = (start, start + len(text)) if placed else (0, 0)
        start += len(text) + 1 if placed else 0
        found.append(Word(text, span, (index,), WordKind(kind), is_head=text == head))
    return tuple(found)


def text_maps(words, logits, between=None, size=None, layers=(0,), layer_count=None) -> AttentionMaps:
    """Maps [1, L, 1, T, h*w] whose weights are the softmax over T of logits [T, h, w] or [L, T, h, w]."""
    logits = np.asarray(logits, float)
    logits = np.broadcast_to(logits if logits.ndim == 4 else logits[None], (len(layers), *logits.shape[-3:]))
    shape = logits.shape[-2:]
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cells = shape[0] * shape[1]
    size = size or (10 * shape[1], 10 * shape[0])
    keys = np.arange(100, 100 + cells)
    if between is not None:
        between = np.broadcast_to(np.asarray(between, np.float32), (1, len(layers), 1, len(words), len(words)))
    return AttentionMaps(
        values=weights.reshape(1, len(layers), 1, len(words), cells).astype(np.float32),
        layers=tuple(layers),
        words=tuple(words),
        keys=keys,
        grids=(ImageGrid(keys, shape, (0.0, 0.0, float(size[0]), float(size[1]))),),
        image_size=size,
        direction="image-to-word",
        text_to_text=between,
        layer_count=layer_count,
    )
