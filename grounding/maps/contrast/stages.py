"""Contrast the maps with a background by ratio, difference or least squares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import image_mass, lost_share
from grounding.maps.contrast.background import BackgroundContrast, least_squares_scale, scale_to_mass
from grounding.types import AttentionMaps, FloatArray, StageReport


@dataclass(frozen=True)
class Ratio(BackgroundContrast):
    """Divide by the background, A / A_generic (ViCrop, ICLR 2025, arXiv 2502.17422, section on relative attention).

    Attributes:
        prompt: see `BackgroundContrast`.
        background: see `BackgroundContrast`.
        over: see `BackgroundContrast`.
        epsilon: added to the background, in units of its mean image cell.

    Notes:
        ViCrop divides at one layer and without an epsilon. The epsilon is our choice: without it a cell that the
        generic prompt hardly attends to has the largest ratio whatever the words are.
    """

    name: ClassVar[str] = "contrast-ratio"
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise MethodError("stage 'contrast-ratio' needs epsilon >= 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Divide by the background's mean row, cell by cell, and drop the background."""
        values = maps.values.copy()
        lifted = cells = 0
        for columns, other in self.paired(maps):
            below = other + self.epsilon * other.mean()
            ratio = np.divide(
                maps.values[..., columns], below, out=np.zeros_like(values[..., columns]), where=below > 0
            )
            values[..., columns] = ratio
            lifted += int((ratio > 1).sum())
            cells += ratio.size
        detail = f"{lifted} of {cells} cells draw more attention than {self.behind}"
        return replace(maps, values=values, background=None), StageReport(self.name, 0.0, detail, _data(self))


@dataclass(frozen=True)
class Difference(BackgroundContrast):
    """Subtract the background, max(0, A - strength * A_generic) (DecAF, arXiv 2510.19592, read from its code).

    DecAF clamps the difference of unnormalised maps to [0, 1] with strength 1, which is `match: none`.

    Attributes:
        prompt: see `BackgroundContrast`.
        background: see `BackgroundContrast`.
        over: see `BackgroundContrast`.
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
        super().__post_init__()
        if self.strength <= 0:
            raise MethodError("stage 'contrast-difference' needs strength > 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Subtract the background's mean row, cell by cell, and drop the background."""
        pairs = self.paired(maps)
        scale: FloatArray | float = 1.0
        if self.match == "mass":
            scale = scale_to_mass([maps.values[..., columns] for columns, _ in pairs], [other for _, other in pairs])
        return _subtracted(self, maps, self.strength * scale)


@dataclass(frozen=True)
class LeastSquares(BackgroundContrast):
    """Subtract the multiple of the background that explains most of the map, max(0, A - strength * s * A_generic).

    s = <A, A_generic> / <A_generic, A_generic> over the image's cells, row by row: what is left is orthogonal to the
    background before it is clamped. TAM (ICCV 2025, arXiv 2506.23270, read from its code) removes what other words
    explain in this way; see `OtherWords`.

    Attributes:
        prompt: see `BackgroundContrast`.
        background: see `BackgroundContrast`.
        over: see `BackgroundContrast`.
        strength: factor on the multiple, > 0.

    Notes:
        TAM has no generic prompt; least squares against one is our choice, for a comparison on equal terms.
    """

    name: ClassVar[str] = "contrast-least-squares"
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength <= 0:
            raise MethodError("stage 'contrast-least-squares' needs strength > 0")

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Subtract the scaled mean row of the background, cell by cell, and drop the background."""
        pairs = self.paired(maps)
        scale = least_squares_scale([maps.values[..., columns] for columns, _ in pairs], [other for _, other in pairs])
        return _subtracted(self, maps, self.strength * scale)


def _subtracted(
    stage: BackgroundContrast, maps: AttentionMaps, scale: FloatArray | float
) -> tuple[AttentionMaps, StageReport]:
    values = maps.values.copy()
    for columns, other in stage.paired(maps):
        values[..., columns] = np.maximum(maps.values[..., columns] - scale * other, 0)
    result = replace(maps, values=values, background=None)
    removed = lost_share(image_mass(maps), image_mass(result))
    detail = f"{removed:.0%} of the image attention is also there {stage.behind}"
    return result, StageReport(stage.name, removed, detail, _data(stage))


def _data(stage: BackgroundContrast) -> dict[str, str]:
    return {"prompt": stage.prompt} if stage.background == "prompt" else {"background": stage.background}
