"""What every contrast with a background shares: which background is recorded, and the same cells of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Part, Stage, grid_columns
from grounding.record_spec import BackgroundKind, RecordSpec
from grounding.types import AttentionMaps, FloatArray, IntArray, StageReport

Behind = Literal["prompt"] | BackgroundKind


@dataclass(frozen=True)
class BackgroundContrast(Stage):
    """A stage that compares the maps with their background.

    Attributes:
        prompt: the generic prompt whose maps are the background, for `background: prompt`.
        background: what the background is. `prompt`: the same picture under a generic prompt (ViCrop, DecAF).
            `no-query`: under the run's own prompt without the expression (LASER, arXiv 2602.04304). `blank`: the same
            words on a picture of one colour, whose maps hold what the model attends to by position alone. `shifted`:
            the same words on the picture moved around itself by half its sides; what stays at its cell belongs to the
            position and not to the content, the idea of denoising ViT features (arXiv 2401.02957).
        over: what is taken of a background of several steps, such as the moved pictures: `mean`, or `least`, since what
            stays is there in all.

    Notes:
        The blank picture's colour, the three half shifts and `least` are our choices, and so is subtracting maps
        instead of features.
    """

    spends: ClassVar[frozenset[Part]] = frozenset({"background"})
    prompt: str = ""
    background: Behind = "prompt"
    over: Literal["mean", "least"] = "mean"

    def __post_init__(self) -> None:
        if self.background not in ("prompt", *get_args(BackgroundKind)):
            raise MethodError(
                f"stage {self.name!r} has background {self.background!r}: use prompt, "
                f"{', '.join(get_args(BackgroundKind))}"
            )
        if self.background == "prompt" and not self.prompt.strip():
            raise MethodError(f"stage {self.name!r}: prompt must be given, or another background")
        if self.background != "prompt" and self.prompt:
            raise MethodError(
                f"stage {self.name!r} has the prompt {self.prompt!r} and background {self.background!r}: keep one"
            )

    @property
    def behind(self) -> str:
        """What the background is, in words, for reports."""
        return {
            "prompt": f"under {self.prompt!r}",
            "no-query": "without the expression",
            "blank": "on a blank picture",
            "shifted": "on the moved picture",
        }[self.background]

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The background's maps."""
        if self.background == "prompt":
            return RecordSpec(background_prompt=self.prompt)
        return RecordSpec(background_kind=self.background)

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Compare the maps with their background, once.

        Raises:
            MethodError: there is no background, or its cells do not match.
        """
        return self.apply(maps)

    def paired(self, maps: AttentionMaps) -> list[tuple[IntArray, FloatArray]]:
        """Pair the cells of the maps with those of the background.

        Returns:
            Per grid the columns [h*w] in the maps, and the background's mean row [S, L, H, 1, h*w] of the same cells.

        Raises:
            MethodError: there is no background, or its cells do not match.
        """
        other = maps.background
        if other is None:
            wanted = "background_prompt" if self.background == "prompt" else "background_kind"
            raise MethodError(
                f"stage {self.name!r} needs maps {self.behind}, but there is no background: record them as well "
                f"(RecordSpec.{wanted}) and put them into AttentionMaps.background"
            )
        if [grid.shape for grid in maps.grids] != [grid.shape for grid in other.grids]:
            raise MethodError(
                f"stage {self.name!r} compares cell by cell, but the grids are {[g.shape for g in maps.grids]} and, in "
                f"the background, {[g.shape for g in other.grids]}: record both from the same image size"
            )
        steps, theirs = len(maps.values), len(other.values)
        if maps.values.shape[1:3] != other.values.shape[1:3] or theirs % steps:
            raise MethodError(
                f"stage {self.name!r} compares {maps.values.shape[:3]} steps, layers and heads with "
                f"{other.values.shape[:3]} in the background: record both with the same request"
            )
        rows = other.values.mean(axis=3, keepdims=True)
        moved = rows.reshape(theirs // steps, steps, *rows.shape[1:])
        joined = moved.min(axis=0) if self.over == "least" else moved.mean(axis=0)
        return [(mine, joined[..., own]) for mine, own in zip(grid_columns(maps), grid_columns(other), strict=True)]


def scale_to_mass(here: list[FloatArray], there: list[FloatArray]) -> FloatArray:
    """The factor [..., 1] on a background [..., n] that gives it the maps' mass over all grids; 0 for an empty one."""
    mine = np.asarray(sum(part.sum(axis=-1, keepdims=True) for part in here))
    theirs = np.broadcast_to(sum(part.sum(axis=-1, keepdims=True) for part in there), mine.shape)
    return np.divide(mine, theirs, out=np.zeros_like(mine), where=theirs > 0)


def least_squares_scale(here: list[FloatArray], there: list[FloatArray]) -> FloatArray:
    """The factor [..., 1] on a background [..., n] that brings it closest to the maps; 0 for an empty one."""
    dot = np.asarray(sum((a * b).sum(axis=-1, keepdims=True) for a, b in zip(here, there, strict=True)))
    own = np.broadcast_to(sum((b * b).sum(axis=-1, keepdims=True) for b in there), dot.shape)
    return np.maximum(np.divide(dot, own, out=np.zeros_like(dot), where=own > 0), 0)
