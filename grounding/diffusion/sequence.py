"""Where image cells and text tokens stand in a diffusion transformer's sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grounding.layout import ImageGrid, TextSpan, TokenLayout
from grounding.types import Word, WordKind


@dataclass(frozen=True)
class LatentShape:
    """The grid of cells that a transformer reads.

    Attributes:
        frames: latent frames; 1 for a picture.
        height: cells from top to bottom.
        width: cells from left to right.
    """

    frames: int
    height: int
    width: int

    @property
    def cells(self) -> int:
        """X, cells of all frames."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Placement:
    """Positions of cells and text tokens.

    In joint attention there is one sequence. In cross attention cells are queries and tokens are keys of two sequences;
    they are numbered here as if the text stood behind the image.

    Attributes:
        count: X, image cells, which follow each other row by row and frame by frame.
        tokens: indices of the text tokens that take part in the softmax, among those of the prompt.
        image_start: position of the first cell.
        text_start: position of the prompt's first token.
        joint: whether text and image are one sequence.
    """

    count: int
    tokens: tuple[int, ...]
    image_start: int
    text_start: int
    joint: bool = True

    @property
    def cells(self) -> tuple[int, ...]:
        """(X,) positions of cells among the attention's queries."""
        return tuple(range(self.image_start, self.image_start + self.count))

    @property
    def text(self) -> tuple[int, ...]:
        """(T,) positions of text tokens among the attention's keys."""
        return tuple(self.text_start + i for i in self.tokens)

    @property
    def word_positions(self) -> tuple[int, ...]:
        """(T,) positions of text tokens in the sequence that words and grids are described in."""
        return self.text if self.joint else tuple(self.count + i for i in self.tokens)

    def layout(self, grids: tuple[ImageGrid, ...], words: tuple[Word, ...], size: tuple[int, int]) -> TokenLayout:
        """The layout of the sequence.

        Args:
            grids: the image's grids.
            words: all words, special ones included.
            size: (width, height) of the original picture in pixels.
        """
        of_expression = [p for word in words if word.kind is not WordKind.SPECIAL for p in word.positions]
        other = [p for word in words if word.kind is WordKind.SPECIAL for p in word.positions]
        text = (TextSpan(_array(of_expression), "expression"), TextSpan(_array(other), "instruction"))
        last = max(*self.word_positions, self.image_start + self.count - 1)
        return TokenLayout(last + 1, 0, (*grids, *(s for s in text if len(s.positions))), (size,))


def grids_of(
    placement: Placement, shape: LatentShape, size: tuple[int, int], video: bool, step: int
) -> tuple[ImageGrid, ...]:
    """The grids of a picture, or of each latent frame of a clip, over the whole original picture.

    The picture was resized to the model's size without keeping its aspect, so a cell covers the same share of the
    original as of the resized picture.

    Args:
        placement: positions.
        shape: the latent grid.
        size: (width, height) of the original picture in pixels.
        video: whether the cells are a clip's.
        step: frames that one latent frame stands for, the first excepted.
    """
    area = shape.height * shape.width
    cells = np.asarray(placement.cells, np.int64)
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    grids = []
    for index in range(shape.frames):
        frame = (0 if index == 0 else 1 + (index - 1) * step) if video else None
        own = cells[index * area : (index + 1) * area]
        grids.append(ImageGrid(own, (shape.height, shape.width), box, frame=frame))
    return tuple(grids)


def _array(positions: list[int]) -> np.ndarray:
    return np.array(sorted(positions), np.int64)
