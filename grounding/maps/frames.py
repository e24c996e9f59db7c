"""Take the maps of a clip apart, one for each step of time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grounding.types import AttentionMaps


def frame_maps(maps: AttentionMaps) -> dict[int, AttentionMaps]:
    """The maps of each step of time that a clip's tokens stand for.

    Args:
        maps: of one clip, whose grids say their `frame`.

    Returns:
        By the first frame that a step stands for, in the order of time: the columns of that step's cells alone. Any
        method's stages make a heat map of each. What separates steps, such as written times, is in none.

    Raises:
        ValueError: a grid is of a still picture.
    """
    if any(grid.frame is None for grid in maps.grids):
        raise ValueError("the maps are those of a still picture, whose grids have no frame: expected maps of a clip")
    background = {} if maps.background is None else frame_maps(maps.background)
    found = {}
    for frame in sorted({grid.frame for grid in maps.grids if grid.frame is not None}):
        grids = tuple(grid for grid in maps.grids if grid.frame == frame)
        columns = np.flatnonzero(np.isin(maps.keys, np.concatenate([grid.positions for grid in grids])))
        found[frame] = replace(
            maps,
            values=np.ascontiguousarray(maps.values[..., columns]),
            keys=maps.keys[columns],
            grids=grids,
            residual_sinks=None if maps.residual_sinks is None else maps.residual_sinks[:, columns],
            features=None if maps.features is None else maps.features[columns],
            logits=None if maps.logits is None else maps.logits[:, columns],
            background=background.get(frame),
        )
    return found
