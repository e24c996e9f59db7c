"""The adapter of a model whose image cells are keys of cross-attention and no positions of its sequence."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from grounding.layout import ImageGrid, Separator, TokenLayout
from grounding.models.base import VLM
from grounding.models.chat import Rendered
from grounding.models.picture import Picture
from grounding.types import IntArray, Word


class CrossVLM(VLM):
    """A model that reads its pictures by cross-attention; its layouts have `TokenLayout.cross`.

    The image tokens of its sequence, if any, are separators. Its maps have the keys of the cross-attention as columns.
    """

    cells_are_tokens = False

    @abstractmethod
    def cross_spans(self, picture: Picture) -> tuple[ImageGrid | Separator, ...]:
        """The grids and separators of one picture among the keys of the cross-attention.

        Args:
            picture: the picture and the processor's output.

        Returns:
            The spans; their positions count the keys of the picture's prompt from 0. `picture` need not be set. Keys
            that are in no span are not read.

        Raises:
            ModelError: the keys do not make up the grids that the picture's size asks for.
        """

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """None: no image token of the sequence is a cell."""
        return ()

    def _place(
        self, rendered: Rendered, words: Sequence[Word], pictures: Sequence[Picture], has_expression: bool
    ) -> tuple[tuple[Word, ...], TokenLayout]:
        placed, layout = super()._place(rendered, words, pictures, has_expression)
        spans = [replace(span, picture=one.number) for one in pictures for span in self.cross_spans(one)]
        return placed, replace(layout, cross=tuple(spans))
