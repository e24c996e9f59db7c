"""Describe what each position of a model's input sequence stands for: image cells, separators, or text of a role.

Positions count from 0 at the left end of the padded sequence. Pixel coordinates are those of `grounding.types`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from grounding.equality import ByValue
from grounding.geometry import Box

_IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageGrid(ByValue):
    """A rectangle of image cells, one token each, and the part of the original picture it covers.

    Attributes:
        positions: (h*w,) indices in the model's input sequence, or of `TokenLayout.cross` numbers of keys; row by row
            from the top left cell.
        shape: (h, w) in cells.
        box_xyxy: the covered rectangle in pixels of the original picture. It reaches over the picture's border where
            the image processor pads.
        picture: index of the picture, counted from 0.
        frame: index of the frame of a clip, counted from 0; None for a still picture.
    """

    positions: _IntArray
    shape: tuple[int, int]
    box_xyxy: Box
    picture: int = 0
    frame: int | None = None

    def __post_init__(self) -> None:
        height, width = self.shape
        if height < 1 or width < 1 or self.positions.shape != (height * width,):
            raise ValueError(
                f"a grid of {height}x{width} cells needs {height * width} positions, got {self.positions.shape}"
            )
        x0, y0, x1, y1 = self.box_xyxy
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"a grid's box must have x0 < x1 and y0 < y1, got {self.box_xyxy}")


@dataclass(frozen=True, eq=False)
class TextSpan(ByValue):
    """Text tokens of one role.

    Attributes:
        positions: (n,) indices in the model's input sequence, ascending.
        role: `system`, what precedes the last image token; `instruction`, what follows it; `expression`, the referring
            expression inside the prompt; `answer`, text that follows the prompt.
    """

    positions: _IntArray
    role: Literal["system", "instruction", "expression", "answer"]


@dataclass(frozen=True, eq=False)
class Separator(ByValue):
    """Tokens that belong to a picture and stand for no cell: class token, row, column and tile separators.

    Attributes:
        positions: (n,) indices in the model's input sequence, or of `TokenLayout.cross` numbers of keys; ascending.
        picture: index of the picture, counted from 0.
    """

    positions: _IntArray
    picture: int = 0


@dataclass(frozen=True, eq=False)
class TokenLayout(ByValue):
    """What each position of a model's input sequence stands for.

    Positions count from 0 at the left end of the padded sequence. The properties are computed once; they are ascending
    and disjoint, except that `image` contains `cells` and that `expression` is a part of the prompt's text. Together
    `system`, `image`, `instruction` and `answer` are all positions of the spans.

    Attributes:
        length: N, padding included.
        padding: number of padding positions before the first real one.
        spans: grids, separators and text; no position belongs to two of them.
        image_sizes: per picture (width, height) of the original in pixels.
        cross: of a model that reads its pictures by cross-attention, the grids and separators among the keys of that
            attention; keys count from 0 in the order of the vision tower's tokens. `spans` has no grids then.

    Raises:
        ValueError: two spans share a position or key, a position is outside [padding, length), a span is of a picture
            without a size, or an answer precedes a part of its prompt.
    """

    length: int
    padding: int
    spans: tuple[ImageGrid | TextSpan | Separator, ...]
    image_sizes: tuple[tuple[int, int], ...] = ()
    cross: tuple[ImageGrid | Separator, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.padding <= self.length:
            raise ValueError(f"padding must be in [0, {self.length}], the length of the sequence, got {self.padding}")
        taken = _joined([span.positions for span in self.spans])
        if len(taken) and not (self.padding <= taken[0] and taken[-1] < self.length):
            raise ValueError(
                f"positions must be in [{self.padding}, {self.length}), got {int(taken[0])} to {int(taken[-1])}"
            )
        if (twice := taken[1:][taken[1:] == taken[:-1]]).size:
            raise ValueError(f"position {int(twice[0])} belongs to two spans; every position has one meaning")
        keys = _joined([span.positions for span in self.cross])
        if (twice := keys[1:][keys[1:] == keys[:-1]]).size:
            raise ValueError(f"key {int(twice[0])} belongs to two spans; every key has one meaning")
        for span in (*self.spans, *self.cross):
            if not isinstance(span, TextSpan) and not 0 <= span.picture < len(self.image_sizes):
                raise ValueError(f"a span is of picture {span.picture}, but {len(self.image_sizes)} sizes are given")
        prompt = _joined([self.image, self.system, self.instruction])
        if len(prompt) and len(self.answer) and self.answer[0] < prompt[-1]:
            raise ValueError(f"the answer begins at {int(self.answer[0])}, inside its prompt")

    @cached_property
    def grids(self) -> tuple[ImageGrid, ...]:
        """All grids, in the order of the spans; of a model that reads pictures by cross-attention those of its keys."""
        return tuple(span for span in (*self.spans, *self.cross) if isinstance(span, ImageGrid))

    @cached_property
    def image(self) -> _IntArray:
        """(n,) positions that belong to pictures: cells and separators."""
        return _joined([span.positions for span in self.spans if not isinstance(span, TextSpan)])

    @cached_property
    def cells(self) -> _IntArray:
        """(n,) positions of cells; none where cells are keys of cross-attention."""
        return _joined([span.positions for span in self.spans if isinstance(span, ImageGrid)])

    @cached_property
    def keys(self) -> _IntArray:
        """(n,) what stands for pictures: keys of cross-attention where the model reads by it, positions otherwise."""
        return _joined([span.positions for span in self.cross]) if self.cross else self.image

    @cached_property
    def system(self) -> _IntArray:
        """(n,) prompt text before the last image token, so also text between pictures."""
        return self._prompt[self._prompt < self._text_start]

    @cached_property
    def instruction(self) -> _IntArray:
        """(n,) prompt text after the last image token, the expression included; all prompt text without a picture."""
        return self._prompt[self._prompt >= self._text_start]

    @cached_property
    def expression(self) -> _IntArray:
        """(n,) tokens of the referring expression."""
        return self._text("expression")

    @cached_property
    def answer(self) -> _IntArray:
        """(n,) text behind the prompt."""
        return self._text("answer")

    def of_picture(self, picture: int) -> _IntArray:
        """(n,) positions that belong to one picture: its cells and separators, ascending."""
        parts = [span.positions for span in self.spans if not isinstance(span, TextSpan) and span.picture == picture]
        return _joined(parts)

    def keys_of_picture(self, picture: int) -> _IntArray:
        """(n,) those of `keys` that belong to one picture, ascending."""
        if not self.cross:
            return self.of_picture(picture)
        return _joined([span.positions for span in self.cross if span.picture == picture])

    def extended(self, answer_length: int) -> TokenLayout:
        """The layout with an answer of `answer_length` tokens behind the sequence."""
        stop = self.length + answer_length
        answer = TextSpan(np.arange(self.length, stop, dtype=np.int64), "answer")
        return replace(self, length=stop, spans=(*self.spans, answer))

    @cached_property
    def _prompt(self) -> _IntArray:
        return self._text("system", "instruction", "expression")

    @property
    def _text_start(self) -> int:
        return int(self.image[-1]) + 1 if len(self.image) else 0

    def _text(self, *roles: str) -> _IntArray:
        return _joined([span.positions for span in self.spans if isinstance(span, TextSpan) and span.role in roles])


def _joined(parts: list[_IntArray]) -> _IntArray:
    """All positions of the parts, ascending."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
