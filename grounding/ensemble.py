"""Several models as one source: each one's heat map, made by a method of its own, is one row of the ensemble's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.compose import lay
from grounding.methods import Method, run_stages
from grounding.record_spec import RecordSpec
from grounding.source import Backgrounds, MapSource, maps_and_backgrounds
from grounding.types import AttentionMaps, Heatmap, Word, WordKind

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        source: records its maps.
        method: its stages and `compose` make them a heat map; point and mask rules are the ensemble's.
    """

    source: MapSource
    method: Method


class Ensemble:
    """Several sources of maps as one; a `grounding.source.MapSource` for methods with the stage `ensemble`.

    Every model sees the whole picture and the expression in its own way. The heat maps are resampled to the largest
    height and width among them, so that no map loses cells.

    >>> names = ("starter", "starter-dit")
    >>> both = Ensemble([Member(load_source(name), load_method(name)) for name in names])  # doctest: +SKIP
    >>> pipe = ReferringSegmentation(both, segmenter, load_method("ensemble"))  # doctest: +SKIP

    Args:
        members: at least two; a source may occur with several methods.

    Raises:
        ValueError: there are fewer than two.

    Notes:
        A cell that a model does not see, because it crops the picture, counts as one that it does not look at.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least 2 members, got {len(members)}")
        self.members = tuple(members)
        self.name = "+".join(member.source.name for member in self.members)
        notices = dict.fromkeys(member.source.notice for member in self.members if member.source.notice)
        self.notice: str | None = ". ".join(notices) or None
        self._backgrounds = tuple(Backgrounds(member.source) for member in self.members)

    @property
    def layer_count(self) -> int:
        """1: layers are the models' own matter."""
        return 1

    @property
    def member_names(self) -> tuple[str, ...]:
        """The models' names, with the method's where a model occurs twice."""
        names = [member.source.name for member in self.members]
        return tuple(
            name if names.count(name) == 1 else f"{name} by {member.method.name}"
            for name, member in zip(names, self.members, strict=True)
        )

    def maps(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Make every member's heat maps.

        Args:
            images: RGB pictures, one per expression.
            expressions: referring expressions.
            spec: its byte budget holds for every member's recording; what is recorded otherwise, their methods say.
            prompt: None, since every member's method has its own.

        Returns:
            Per picture maps [1, 1, 1, M, K] of direction `model-to-image`: one row per member, in [0, 1].

        Raises:
            MethodError: spec or prompt come from a method for a single model.
            GroundingError: a member refuses; see `grounding.source.MapSource.maps`.
        """
        if spec != RecordSpec(budget_bytes=spec.budget_bytes) or prompt is not None:
            raise MethodError(
                f"{self.name} is an ensemble, whose maps have no layers, heads, magnets or prompt of their own: choose "
                "a method with the stage 'ensemble', and give its members theirs"
            )
        heatmaps = [
            [
                run_stages(member.method, recorded)
                for recorded in maps_and_backgrounds(
                    member.source,
                    images,
                    expressions,
                    replace(member.method.record_spec(member.source.layer_count), budget_bytes=spec.budget_bytes),
                    member.method.prompt,
                    backgrounds,
                )
            ]
            for member, backgrounds in zip(self.members, self._backgrounds, strict=True)
        ]
        return [self._joined(of_one) for of_one in zip(*heatmaps, strict=True)]

    def _joined(self, heatmaps: Sequence[Heatmap]) -> AttentionMaps:
        """One picture's heat maps as the rows of one set of maps."""
        height, width = (max(one.values.shape[axis] for one in heatmaps) for axis in (0, 1))
        size = heatmaps[0].image_size
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        laid = [lay(one.values, whole, (height, width), size)[0] for one in heatmaps]
        rows = np.stack(laid).reshape(1, 1, 1, len(laid), -1).astype(np.float32)
        cells = np.arange(height * width, dtype=np.int64)
        words = tuple(
            Word(name, (0, 0), (len(cells) + index,), WordKind.MODEL) for index, name in enumerate(self.member_names)
        )
        grid = ImageGrid(cells, (height, width), whole)
        return AttentionMaps(rows, (), words, cells, (grid,), size, direction="model-to-image")
