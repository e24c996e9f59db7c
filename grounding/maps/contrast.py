"""Contrast the maps with those of a generic prompt on the same image: keep what the words add."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Part, Stage, grid_columns, image_mass, lost_share
from grounding.types import AttentionMaps, FloatArray, IntArray, RecordSpec, StageReport


@dataclass(frozen=True)
class BackgroundContrast(Stage):
    """A stage that compares the maps with their background.

    Attributes:
        prompt: the generic prompt whose maps are the background.
    """

    spends: ClassVar[frozenset[Part]] = frozenset({"background"})
    prompt: str

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The generic prompt's maps."""
        return RecordSpec(background_prompt=self.prompt)

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Compare the maps with their background, once.

        Raises:
            MethodError: there is no background, or its cells do not match.
        """
        return self.apply(maps)


@dataclass(frozen=True)
class Ratio(BackgroundContrast):
    """Divide by the background, A / A_generic (ViCrop, ICLR 2025, arXiv 2502.17422, section on relative attention).

    Attributes:
        prompt: see `BackgroundContrast`.
        epsilon: added to the background, in units of its mean image cell.

    Notes:
        ViCrop divides at one layer and without an epsilon. The epsilon is our choice: without it a cell that the
        generic prompt hardly attends to has the largest ratio whatever the words are.
    """

    name: ClassVar[str] = "contrast-ratio"
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        if not self.prompt.strip() or self.epsilon < 0:
            raise MethodError("stage 'contrast-ratio' needs a prompt and epsilon >= 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Divide by the background's mean row, cell by cell, and drop the background."""
        values = maps.values.copy()
        lifted = cells = 0
        for columns, other in _paired(maps, self.name):
            below = other + self.epsilon * other.mean()
            ratio = np.divide(
                maps.values[..., columns], below, out=np.zeros_like(values[..., columns]), where=below > 0
            )
            values[..., columns] = ratio
            lifted += int((ratio > 1).sum())
            cells += ratio.size
        detail = f"{lifted} of {cells} cells draw more attention than under {self.prompt!r}"
        return replace(maps, values=values, background=None), StageReport(
            self.name, 0.0, detail, {"prompt": self.prompt}
        )


@dataclass(frozen=True)
class Difference(BackgroundContrast):
    """Subtract the background, max(0, A - strength * A_generic) (DecAF, arXiv 2510.19592, read from its code).

    DecAF clamps the difference of unnormalised maps to [0, 1] with strength 1, which is `match: none`.

    Attributes:
        prompt: see `BackgroundContrast`.
        strength: factor on the background, > 0.
        match: `mass` scales the background to the maps' image attention first, `none` leaves it.

    Notes:
        `match: mass` is our choice: rows of words and the row of a last token differ in their total attention on the
        image, and a plain difference then keeps all of it or nothing.
    """

    name: ClassVar[str] = "contrast-difference"
    strength: float = 1.0
    match: Literal["mass", "none"] = "mass"

    def __post_init__(self) -> None:
        if not self.prompt.strip() or self.strength <= 0:
            raise MethodError("stage 'contrast-difference' needs a prompt and strength > 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Subtract the background's mean row, cell by cell, and drop the background."""
        pairs = _paired(maps, self.name)
        values = maps.values.copy()
        scale: FloatArray | float = 1.0
        if self.match == "mass":
            here = sum(maps.values[..., columns].sum(axis=-1, keepdims=True) for columns, _ in pairs)
            there = sum(other.sum(axis=-1, keepdims=True) for _, other in pairs)
            scale = np.divide(here, there, out=np.zeros_like(here), where=np.asarray(there) > 0)
        for columns, other in pairs:
            values[..., columns] = np.maximum(maps.values[..., columns] - self.strength * scale * other, 0)
        result = replace(maps, values=values, background=None)
        removed = lost_share(image_mass(maps), image_mass(result))
        detail = f"{removed:.0%} of the image attention is also there under {self.prompt!r}"
        return result, StageReport(self.name, removed, detail, {"prompt": self.prompt})


def _paired(maps: AttentionMaps, stage: str) -> list[tuple[IntArray, FloatArray]]:
    """Per grid the columns [h*w] in the maps, and the background's mean row [S, L, H, 1, h*w] of the same cells."""
    other = maps.background
    if other is None:
        raise MethodError(
            f"stage {stage!r} needs maps of the same image under a generic prompt, but there is no background: run the "
            "model on Method.background_prompt too and put its maps into AttentionMaps.background"
        )
    if [grid.shape for grid in maps.grids] != [grid.shape for grid in other.grids]:
        raise MethodError(
            f"stage {stage!r} compares cell by cell, but the grids are {[g.shape for g in maps.grids]} and, in the "
            f"background, {[g.shape for g in other.grids]}: record both from the same image size"
        )
    if maps.values.shape[:3] != other.values.shape[:3]:
        raise MethodError(
            f"stage {stage!r} compares {maps.values.shape[:3]} steps, layers and heads with {other.values.shape[:3]} "
            "in the background: record both with the same request"
        )
    mean = other.values.mean(axis=3, keepdims=True)
    return [(mine, mean[..., theirs]) for mine, theirs in zip(grid_columns(maps), grid_columns(other), strict=True)]
