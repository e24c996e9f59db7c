"""Compose one map over the whole original image from the cells of one or several grids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from grounding.errors import MethodError
from grounding.geometry import Box
from grounding.maps.base import grid_columns, on_grid
from grounding.types import AttentionMaps, FloatArray, Heatmap


@dataclass(frozen=True)
class Compose:
    """Lay every grid onto the image and average them where they overlap.

    The output's cells are equal and cover the image exactly. They are as large as the smallest cell of any grid
    divided by `upscale`, so one grid over the whole image with `upscale: 1` comes out cell for cell. A grid's weight
    stands at its cell's centre and is read bilinearly between centres; within half a cell of a grid's border the
    border cell counts. Where several grids lie, the mean is weighted by how much of the output cell each covers;
    where none lies the map is 0. Steps, layers, heads and rows that are still there are averaged with equal weights.

    Attributes:
        upscale: output cells per grid cell along each side.
        floor: what becomes 0: the smallest value among covered cells (`min`, as DecAF's min-max), or no attention
            (`zero`).
        max_cells: longest side of the output.
    """

    upscale: int = 1
    floor: Literal["min", "zero"] = "min"
    max_cells: int = 512

    def __post_init__(self) -> None:
        if self.upscale < 1 or self.max_cells < 1:
            raise MethodError("compose needs upscale >= 1 and max_cells >= 1")

    def __call__(self, maps: AttentionMaps) -> Heatmap:
        """Compose the map.

        Returns:
            A heat map in [0, 1] whose largest value is 1, or all 0 where no cell stands out from the others.

        Raises:
            MethodError: the maps have no grid.
        """
        if not maps.grids:
            raise MethodError("the maps hold no image cells to compose: record the image's keys and their grids")
        row = maps.values.mean(axis=(0, 1, 2, 3))  # [K]
        height, width = self.shape(maps)
        total = np.zeros((height, width))
        covered = np.zeros((height, width))
        for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
            cells = on_grid(row, columns, grid)
            values, share = lay(cells, grid.box_xyxy, (height, width), maps.image_size)
            total += values * share
            covered += share
        inside = covered > 1e-9
        values = np.divide(total, covered, out=np.zeros_like(total), where=inside)
        lowest = float(values[inside].min()) if self.floor == "min" and inside.any() else 0.0
        values = np.where(inside, values - lowest, 0)
        largest = float(values.max())
        # Rounding leaves differences of this size on a flat map.
        flat = largest <= 1e-6 * (largest + lowest)
        values = np.zeros_like(values) if flat else values / largest
        return Heatmap(np.clip(values, 0, 1).astype(np.float32), maps.image_size)

    def shape(self, maps: AttentionMaps) -> tuple[int, int]:
        """(h, w) of the output in cells."""
        width, height = maps.image_size
        cell_width = min((grid.box_xyxy[2] - grid.box_xyxy[0]) / grid.shape[1] for grid in maps.grids)
        cell_height = min((grid.box_xyxy[3] - grid.box_xyxy[1]) / grid.shape[0] for grid in maps.grids)
        tall, wide = self.upscale * height / cell_height, self.upscale * width / cell_width
        shrink = min(1.0, self.max_cells / max(tall, wide))
        return max(1, math.ceil(tall * shrink - 1e-6)), max(1, math.ceil(wide * shrink - 1e-6))


def lay(
    cells: FloatArray, box_xyxy: Box, shape: tuple[int, int], image_size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Lay a grid of cells onto the image.

    Args:
        cells: [h', w'] values at the cells' centres.
        box_xyxy: what the grid covers, in pixels of the image.
        shape: (h, w) of the output, whose equal cells cover the image.
        image_size: (width, height) in pixels.

    Returns:
        The values [h, w] at the output cells' centres, read bilinearly; and the share [h, w] of each output cell that
        the grid covers.
    """
    (height, width), (x0, y0, x1, y1) = shape, box_xyxy
    rows = _axis(height, image_size[1], y0, y1, cells.shape[0])
    columns = _axis(width, image_size[0], x0, x1, cells.shape[1])
    at = np.stack(np.meshgrid(rows[0], columns[0], indexing="ij"))
    values = ndimage.map_coordinates(cells.astype(np.float64), at, order=1, mode="nearest")
    return values, rows[1][:, None] * columns[1][None, :]


def _axis(count: int, pixels: int, low: float, high: float, cells: int) -> tuple[FloatArray, FloatArray]:
    """Along one axis: the grid coordinate at each output cell (0 at the first cell's centre), and the share covered."""
    edges = np.linspace(0, pixels, count + 1)
    left, right = np.clip(edges[:-1], low, high), np.clip(edges[1:], low, high)
    share = (right - left) / (pixels / count)
    # An output cell over the grid's border is read in the middle of the part that the grid covers.
    middle = (left + right) / 2
    at = (middle - low) / (high - low) * cells - 0.5
    return np.clip(at, 0, cells - 1), np.clip(share, 0, 1)
