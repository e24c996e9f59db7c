"""What the words add: the maps against those of a generic prompt on the same picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Stage, grid_columns, image_mass, lost_share
from grounding.types import AttentionMaps, FloatArray, IntArray, StageReport


@dataclass(frozen=True)
class Ratio(Stage):
    """Relative attention, A / A_generic (ViCrop, ICLR 2025, arXiv 2502.17422, section on relative attention).

    ViCrop divides without an epsilon, at one layer of the model; the epsilon here is ours: a cell that the generic
    prompt hardly looks at would otherwise win whatever the words are.

    Attributes:
        prompt: the generic prompt whose maps are the background.
        epsilon: added to the background, in units of its mean image cell.
    """

    name: ClassVar[str] = "contrast-ratio"
    prompt: str
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        if not self.prompt.strip() or self.epsilon < 0:
            raise MethodError("stage 'contrast-ratio' needs a prompt and epsilon >= 0")

    def __call__(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Divide by the background's mean row, cell by cell, and drop the background.

        Raises:
            MethodError: there is no background, or its cells do not match.
        """
        return self.apply(maps)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """The same as a call: this stage consumes the background."""
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
class Difference(Stage):
    """Attention beyond the generic prompt's, max(0, A - strength * A_generic).

    DecAF (arXiv 2510.19592, read from its code) clamps the difference of unnormalised maps to [0, 1] with strength 1,
    which is `match: none`. Scaling the background to the maps' own image attention first (`match: mass`) is ours:
    rows of words and of a last token differ in how much they look at the image at all, and a plain difference then
    keeps all or nothing.

    Attributes:
        prompt: the generic prompt whose maps are the background.
        strength: how much of the background is taken off.
        match: `mass` scales the background to the same image attention, `none` leaves it.
    """

    name: ClassVar[str] = "contrast-difference"
    prompt: str
    strength: float = 1.0
    match: Literal["mass", "none"] = "mass"

    def __post_init__(self) -> None:
        if not self.prompt.strip() or self.strength <= 0:
            raise MethodError("stage 'contrast-difference' needs a prompt and strength > 0")

    def __call__(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Subtract the background's mean row, cell by cell, and drop the background.

        Raises:
            MethodError: there is no background, or its cells do not match.
        """
        return self.apply(maps)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """The same as a call: this stage consumes the background."""
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
    """Per grid the columns [h*w] in the maps, and the background's mean row [L, H, 1, h*w] of the same cells."""
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
    if maps.values.shape[:2] != other.values.shape[:2]:
        raise MethodError(
            f"stage {stage!r} compares {maps.values.shape[:2]} layers and heads with {other.values.shape[:2]} in the "
            "background: record both with the same request"
        )
    mean = other.values.mean(axis=2, keepdims=True)
    return [(mine, mean[..., theirs]) for mine, theirs in zip(grid_columns(maps), grid_columns(other), strict=True)]
