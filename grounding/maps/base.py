"""Define what a stage declares and does, and find the image's cells among the recorded columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, EditedSinks, FloatArray, IntArray, StageReport

N = TypeVar("N", bound=np.generic)
Part = Literal["steps", "layers", "heads", "words", "background"]
"""What a stage can spend: an axis, which keeps length 1 once averaged, or the background, which is dropped."""

LAST = "<last>"
"""Text of the special word that stands for the last token of the prompt."""

BOTH: frozenset[Direction] = frozenset({"word-to-image", "image-to-word"})
WORD_TO_IMAGE: frozenset[Direction] = frozenset({"word-to-image"})


@dataclass(frozen=True)
class Stage(ABC):
    """One step of a method: attention maps in, attention maps and a report out.

    A stage is a frozen dataclass whose fields are the method's numbers. It keeps the five axes [S, L, H, T, K] of
    `AttentionMaps.values`. The order of a method's stages and what must be recorded follow from the declarations below.
    Another distribution adds a stage by an entry point in the group `grounding.stages`; see `grounding.registry`.

    Attributes:
        name: as in a method file and in the report.
        spends: the parts that later stages do not have any more. Only one stage of a method may spend a part that both
            spend and require.
        requires: the parts that no earlier stage may have spent. The background is among them by default, because a
            contrast compares maps and background that went through the same stages.
        before: names of stages that may not come earlier, where `spends` and `requires` do not say so already.
        first: whether no stage may come earlier, because the stage's work is done as the model runs.
        directions: the directions of attention that the stage has a meaning for.
        takes_signed: whether the stage has a meaning for weights that may be negative.
        leaves_signed: whether weights may be negative behind the stage; None where they are what they were before it.
    """

    name: ClassVar[str]
    spends: ClassVar[frozenset[Part]] = frozenset()
    requires: ClassVar[frozenset[Part]] = frozenset({"background"})
    before: ClassVar[frozenset[str]] = frozenset()
    first: ClassVar[bool] = False
    directions: ClassVar[frozenset[Direction]] = BOTH
    takes_signed: ClassVar[bool] = False
    leaves_signed: ClassVar[bool | None] = None

    def needs(self, layer_count: int | None) -> RecordSpec:
        """What must be recorded for this stage.

        A field of the spec at its default means that the stage works with whatever reaches it: with any layers, and
        with single heads. `reduce="heads"` means that the mean over heads is enough.

        Args:
            layer_count: the model's decoder layers; None where the model is not known.

        Raises:
            MethodError: the stage names layers that the model does not have.
        """
        return RecordSpec()

    @abstractmethod
    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Run the stage on one set of maps and leave their background as it is."""

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Run the stage on the maps and on their background; override it where the two are treated differently."""
        result, report = self.apply(maps)
        if maps.background is not None:
            result = replace(result, background=self.apply(maps.background)[0])
        return result, report

    def __call__(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Check the maps, then run the stage on them and on their background.

        Args:
            maps: values [S, L, H, T, K].

        Returns:
            The new maps, and what was removed from the maps themselves (the background is not reported).

        Raises:
            MethodError: the maps lack what the stage needs, or the stage has no meaning for their direction or sign.
        """
        if maps.direction not in self.directions:
            raise MethodError(
                f"stage {self.name!r} has no meaning for {maps.direction} attention, only for "
                f"{' and '.join(sorted(self.directions))}: leave the stage out"
            )
        if maps.signed and not self.takes_signed:
            raise MethodError(
                f"stage {self.name!r} needs weights >= 0, but these maps are signed: leave the stage out, put "
                "'unsigned' before it, or record layers of softmax attention"
            )
        return self.with_background(maps)


def grid_columns(maps: AttentionMaps) -> tuple[IntArray, ...]:
    """Per grid the (h*w,) column indices of its cells, row by row from the top left."""
    order = np.argsort(maps.keys, kind="stable")
    ranked = maps.keys[order]
    return tuple(order[np.searchsorted(ranked, grid.positions)] for grid in maps.grids)


def image_columns(maps: AttentionMaps) -> IntArray:
    """The sorted column indices of all image cells of all grids."""
    found = grid_columns(maps)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def on_grid(values: npt.NDArray[N], columns: IntArray, grid: ImageGrid) -> npt.NDArray[N]:
    """Values [..., K] of one grid's cells as [..., h, w]."""
    return values[..., columns].reshape(*values.shape[:-1], *grid.shape)


def image_mass(maps: AttentionMaps) -> float:
    """Sum of all weights on image cells."""
    return float(maps.values[..., image_columns(maps)].sum(dtype=np.float64))


def lost_share(before: float, after: float) -> float:
    """Share of a mass that is gone, in [0, 1]; 0 where there was none."""
    return float(np.clip(1 - after / before, 0, 1)) if before > 0 else 0.0


def need_layers(maps: AttentionMaps, stage: str) -> None:
    """Check that the layer axis has not been averaged.

    Raises:
        MethodError: it has.
    """
    if len(maps.layers) != maps.values.shape[1]:
        raise MethodError(
            f"stage {stage!r} needs single layers, but they have been averaged: place it before the stage that "
            "averages them, and record without reduction"
        )


def skipped_note(maps: AttentionMaps) -> str:
    """What a report says of the model's layers that have no weights of the recorded kind; empty where all have."""
    if not maps.skipped_layers:
        return ""
    of = f" of {maps.layer_count}" if maps.layer_count is not None else ""
    kind = "weights of linear attention" if maps.signed else "attention weights"
    return f"; {len(maps.skipped_layers)}{of} layers have no {kind}"


def keep_layers(maps: AttentionMaps, indices: Sequence[int]) -> AttentionMaps:
    """The maps with only the given entries of the layer axis, statistics and sinks included."""
    at = list(indices)
    return replace(
        maps,
        values=maps.values[:, at],
        layers=tuple(maps.layers[i] for i in at),
        head_statistics={name: table[at] for name, table in maps.head_statistics.items()},
        residual_sinks=None if maps.residual_sinks is None else maps.residual_sinks[at],
        text_to_text=None if maps.text_to_text is None else maps.text_to_text[:, at],
    )


def keep_words(maps: AttentionMaps, indices: Sequence[int]) -> AttentionMaps:
    """The maps with only the given entries of the word axis."""
    at = list(indices)
    between, sinks = maps.text_to_text, maps.sinks
    if sinks is not None:
        evidence = None if sinks.evidence is None else sinks.evidence[at]
        sinks = EditedSinks(sinks.edited[at], evidence)
    return replace(
        maps,
        values=maps.values[:, :, :, at],
        words=tuple(maps.words[i] for i in at),
        logits=None if maps.logits is None else maps.logits[at],
        text_to_text=None if between is None else between[:, :, :, at][..., at],
        sinks=sinks,
    )


def average_layers(maps: AttentionMaps, values: FloatArray) -> AttentionMaps:
    """The maps with `values` [S, 1, H, T, K], without what was recorded per layer; words on words are averaged."""
    between = None if maps.text_to_text is None else maps.text_to_text.mean(axis=1, keepdims=True)
    return replace(maps, values=values, layers=(), head_statistics={}, residual_sinks=None, text_to_text=between)
