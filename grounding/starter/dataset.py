"""Render training scenes ahead of training: pixels, per-cell labels and object lists in memory-mapped arrays.

Rendering a scene costs more than a training step, so it is done once, in parallel, into files that later stages map.
Finished blocks of scenes are marked, so an interrupted rendering resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from grounding.scenes.drawing import (
    COLOURS,
    PATTERNS,
    SHAPES,
    SIZES,
    ObjectKind,
    Prior,
    SceneConfig,
    SceneObject,
    draw_scene,
)
from grounding.scenes.language import CELLS
from grounding.starter.model import IMAGE_SIZE

# Every second training scene follows these co-occurrences, so that the model learns a language prior to evaluate.
PLANTED_PRIORS = (Prior("star", "heart", 0.9), Prior("square", "circle", 0.9))
MAX_OBJECTS = 6
SUBCELLS = 4  # parts of a cell along each side, the resolution of its outline
MIN_COVERAGE = 0.2  # a cell belongs to the object that covers most of it, if that is at least this share
NOTHING = 255
_VALUES = (SHAPES, tuple(COLOURS), tuple(SIZES), PATTERNS)
_BLOCK = 500

Layout = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]


@dataclass(frozen=True)
class SceneArrays:
    """N rendered scenes.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        owner: uint8 [N, CELLS * CELLS], index of the object that a cell shows, `NOTHING` for background.
        outline: uint8 [N, CELLS * CELLS, SUBCELLS * SUBCELLS], coverage of each part of a cell by the cell's object,
            0 to 255; for a background cell, coverage by any object.
        kinds: uint8 [N, 6, 4], indices of shape, colour, size and pattern; `NOTHING` beyond the last object.
        centres: float32 [N, 6, 2], (x, y) as fractions of the side.
    """

    pixels: np.ndarray
    owner: np.ndarray
    outline: np.ndarray
    kinds: np.ndarray
    centres: np.ndarray

    def objects(self, index: int) -> list[SceneObject]:
        """Return the scene's objects with empty masks; texts need no masks."""
        empty = np.zeros((0, 0), dtype=bool)
        present = self.kinds[index, :, 0] != NOTHING
        return [
            SceneObject(
                ObjectKind(*(values[i] for values, i in zip(_VALUES, row, strict=True))), (float(x), float(y)), empty
            )
            for row, (x, y) in zip(self.kinds[index][present], self.centres[index][present], strict=True)
        ]


def render(folder: Path, count: int, first_seed: int, workers: int = 2) -> SceneArrays:
    """Render scenes `first_seed` to `first_seed + count - 1` into `folder`, resume if needed, and map the arrays."""
    layout: Layout = {
        "pixels": ((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "owner": ((CELLS * CELLS,), np.uint8),
        "outline": ((CELLS * CELLS, SUBCELLS**2), np.uint8),
        "kinds": ((MAX_OBJECTS, 4), np.uint8),
        "centres": ((MAX_OBJECTS, 2), np.float32),
    }
    return SceneArrays(**fill(folder, count, layout, partial(_draw_block, first_seed), workers))


def fill(
    folder: Path,
    count: int,
    layout: Layout,
    draw: Callable[[int, int], dict[str, np.ndarray]],
    workers: int,
    upto: int | None = None,
) -> dict[str, np.ndarray]:
    """Fill memory-mapped arrays block by block in parallel, resume if needed, and return them.

    Args:
        folder: folder of the arrays and of one mark per finished block.
        count: rows of the arrays.
        layout: shape of a row and dtype, by the array's name.
        draw: picklable; computes the rows `start` to `stop - 1` of every array.
        workers: processes.
        upto: fill only the blocks that start below this row; None fills all.

    Raises:
        ValueError: the folder holds arrays of another size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for name, (row, dtype) in layout.items():
        path, shape = folder / f"{name}.npy", (count, *row)
        fresh = not path.exists()
        arrays[name] = open_memmap(path, mode="w+" if fresh else "r+", dtype=dtype, shape=shape if fresh else None)
        if arrays[name].shape != shape:
            raise ValueError(f"{path} holds {arrays[name].shape}, expected {shape}: give another folder")
    last = count if upto is None else min(upto, count)
    starts = [s for s in range(0, last, _BLOCK) if not (folder / f"block-{s}.done").exists()]
    stops = [min(start + _BLOCK, count) for start in starts]
    with ProcessPoolExecutor(workers) as pool:
        for start, block in zip(starts, pool.map(draw, starts, stops), strict=True):
            for name, values in block.items():
                arrays[name][start : start + len(values)] = values
            (folder / f"block-{start}.done").touch()
    return arrays


def _draw_block(first_seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
    size = stop - start
    pixels = np.empty((size, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    owner = np.full((size, CELLS * CELLS), NOTHING, np.uint8)
    outline = np.zeros((size, CELLS * CELLS, SUBCELLS**2), np.uint8)
    kinds = np.full((size, MAX_OBJECTS, 4), NOTHING, np.uint8)
    centres = np.zeros((size, MAX_OBJECTS, 2), np.float32)
    for row, seed in enumerate(range(first_seed + start, first_seed + stop)):
        priors = PLANTED_PRIORS if seed % 2 else ()
        scene = draw_scene(seed, SceneConfig(size=IMAGE_SIZE, priors=priors))
        pixels[row] = np.asarray(scene.image)
        owner[row], outline[row] = cell_contents(scene.objects)
        for i, thing in enumerate(scene.objects):
            kind = thing.kind
            names = (kind.shape, kind.colour, kind.size, kind.pattern)
            kinds[row, i] = [values.index(value) for values, value in zip(_VALUES, names, strict=True)]
            centres[row, i] = thing.centre
    return {"pixels": pixels, "owner": owner, "outline": outline, "kinds": kinds, "centres": centres}


def cell_contents(objects: tuple[SceneObject, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the object that covers most of each cell, and its outline there; see `SceneArrays`."""
    masks = np.stack([thing.mask for thing in objects])
    count, part = masks.shape[0], masks.shape[1] // (CELLS * SUBCELLS)
    parts = masks.reshape(count, CELLS, SUBCELLS, part, CELLS, SUBCELLS, part).mean(axis=(3, 6))
    parts = parts.transpose(0, 1, 3, 2, 4).reshape(count, CELLS * CELLS, SUBCELLS**2)
    coverage = parts.mean(axis=2)  # [objects, cells]
    owned = coverage.max(axis=0) >= MIN_COVERAGE
    best = coverage.argmax(axis=0)
    own = np.take_along_axis(parts, best[None, :, None], axis=0)[0]
    outline = np.where(owned[:, None], own, parts.sum(axis=0))
    return np.where(owned, best, NOTHING).astype(np.uint8), (outline * 255).round().astype(np.uint8)


def batches(count: int, size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Yield shuffled batches of indices without end, a permutation per epoch; the first `start` batches are skipped."""
    per_epoch = count // size
    step = start
    while True:
        order = np.random.default_rng((seed, step // per_epoch)).permutation(count)
        for position in range(step % per_epoch, per_epoch):
            yield np.sort(order[position * size : (position + 1) * size])
            step += 1
