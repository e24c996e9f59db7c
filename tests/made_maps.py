"""Attention maps made in memory, for the tests of maps, methods and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grounding.layout import ImageGrid
from grounding.maps.flow import Flow
from grounding.maps.linear import LinearLayers
from grounding.types import AttentionMaps, Word, WordKind

LAST = Word("<last>", (0, 0), (90,), WordKind.SPECIAL)
WORDS = (
    Word("the", (0, 3), (81,), WordKind.STOP),
    Word("red", (4, 7), (82,), WordKind.CONTENT),
    Word("star", (8, 12), (83,), WordKind.CONTENT, is_head=True),
    Word("left", (13, 17), (84,), WordKind.SPATIAL),
    LAST,
)


def made_maps(
    seed: int = 0, shape=(4, 6), layers=(0, 1, 2, 3), heads=3, words=WORDS, size=(120, 80), first=5, extra=4, steps=1
) -> AttentionMaps:
    """Random softmax rows; `extra` columns before the grid are text, so cell 0 is not column 0."""
    rng = np.random.default_rng(seed)
    cells = shape[0] * shape[1]
    logits = rng.normal(size=(steps, len(layers), heads, len(words), cells + extra))
    values = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return AttentionMaps(
        values=values.astype(np.float32),
        layers=tuple(layers),
        words=tuple(words),
        keys=np.arange(first - extra, first + cells, dtype=np.int64),
        grids=(
            ImageGrid(
                np.arange(first, first + cells, dtype=np.int64), shape, (0.0, 0.0, float(size[0]), float(size[1]))
            ),
        ),
        image_size=size,
        head_statistics={
            "max_all": rng.uniform(0.1, 1, (len(layers), heads)).astype(np.float32),
            "max_image": rng.uniform(0.1, 1, (len(layers), heads)).astype(np.float32),
        },
        residual_sinks=rng.uniform(0, 5, (len(layers), cells + extra)).astype(np.float32),
        features=rng.normal(size=(cells + extra, 5)).astype(np.float32),
        logits=rng.normal(size=(len(words), cells + extra)).astype(np.float32),
    )


def one_row(cells, box=None, size=None) -> AttentionMaps:
    """Maps of a single row [h, w] of one layer and one head."""
    cells = np.asarray(cells, np.float32)
    size = size or (cells.shape[1] * 10, cells.shape[0] * 10)
    grid = ImageGrid(np.arange(cells.size), cells.shape, box or (0.0, 0.0, float(size[0]), float(size[1])))
    return AttentionMaps(cells.reshape(1, 1, 1, 1, -1), (0,), (LAST,), np.arange(cells.size), (grid,), size)


def with_background(maps: AttentionMaps, seed: int = 7) -> AttentionMaps:
    """The maps with those of a generic prompt, whose only word is its last token and whose image lies elsewhere."""
    shape, (steps, _, heads) = maps.grids[0].shape, maps.values.shape[:3]
    other = made_maps(seed, shape, maps.layers, heads, (LAST,), maps.image_size, first=9, extra=2, steps=steps)
    return replace(maps, background=other)


def suited(maps: AttentionMaps, *stages) -> AttentionMaps:
    """The maps as all stages can read them: as a flow, signed, or in their direction with words on words."""
    flows = [stage for stage in stages if isinstance(stage, Flow)]
    if flows:
        joined = {"values": maps.values[:, :1, :1], "layers": (), "flow": flows[0].rule}
        behind = None if maps.background is None else suited(maps.background, *stages)
        return replace(maps, **joined, head_statistics={}, residual_sinks=None, background=behind)
    if any(isinstance(stage, LinearLayers) for stage in stages):
        behind = None if maps.background is None else suited(maps.background, *stages)
        sign = np.where(np.arange(maps.values.shape[2]) % 2, -1, 1).astype(np.float32)[:, None, None]
        maps = replace(maps, values=maps.values * sign, signed=True, background=behind)
    if all("word-to-image" in stage.directions for stage in stages):
        return maps
    if all("model-to-image" in stage.directions for stage in stages):
        models = maps.background and suited(maps.background, *stages)
        return replace(maps, direction="model-to-image", text_to_text=None, background=models)
    between = np.full((*maps.values.shape[:4], len(maps.words)), 1 / len(maps.words), np.float32)
    behind = None if maps.background is None else suited(maps.background, *stages)
    return replace(maps, direction="image-to-word", text_to_text=between, background=behind)


def cells(maps: AttentionMaps, grid: int = 0) -> np.ndarray:
    """Values [S, L, H, T, h, w] of a grid, by an independent way of looking them up."""
    at = {key: column for column, key in enumerate(maps.keys.tolist())}
    columns = [at[position] for position in maps.grids[grid].positions.tolist()]
    return maps.values[..., columns].reshape(*maps.values.shape[:4], *maps.grids[grid].shape)


def xy_to_cells(xy, shape, image_size) -> np.ndarray:
    """The cells [N, 2] (row, column) that hold points [N, 2] (x, y) in pixels; points on the far border stay inside."""
    scale = np.array([shape[1] / image_size[0], shape[0] / image_size[1]])
    cells = np.floor(np.asarray(xy, np.float64) * scale).astype(np.int64)[:, ::-1]
    return np.clip(cells, 0, [shape[0] - 1, shape[1] - 1])
