"""A region as it is shown to the model again, and what the model is asked of it.

Notes:
    The two views and the question are our choice; the loop of accepting, rejecting and trying the next candidate is
    what agents around SAM 3 do with many calls (Evol-SAM3, arXiv 2512.24702, among others).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from grounding.errors import MethodError
from grounding.geometry import Box
from grounding.types import BoolArray

View = Literal["crop", "marked"]


@dataclass(frozen=True)
class Verification:
    """How a region is shown again, and what is asked.

    Attributes:
        view: `crop`: the region's box with some of its surroundings; `marked`: the whole picture, darker off the mask,
            with a frame around it.
        question: with `{expression}` or `{noun}` in it, the head noun.
        bar: a region is accepted from this share of yes on.
        tries: most candidates that are shown, best first; where none is accepted there is no answer.
        margin: how much of its own side a crop is wider than the region's box, on each side.
        shade: brightness off the mask of the marked view, in [0, 1].

    Raises:
        MethodError: a number is out of its range, or the question has no slot.
    """

    view: View = "crop"
    question: str = "Is there {expression} in this picture? Answer yes or no."
    bar: float = 0.5
    tries: int = 3
    margin: float = 0.1
    shade: float = 0.4

    def __post_init__(self) -> None:
        if self.view not in ("crop", "marked"):
            raise MethodError(f"a region is shown as crop or marked, got {self.view!r}")
        if not (0 <= self.bar <= 1 and 0 <= self.shade <= 1) or self.tries < 1 or self.margin < 0:
            raise MethodError(
                "a verification needs bar and shade in [0, 1], tries of at least 1 and a margin of at least 0, got "
                f"{self.bar}, {self.shade}, {self.tries}, {self.margin}"
            )
        if "{expression}" not in self.question and "{noun}" not in self.question:
            raise MethodError(f"the question {self.question!r} has neither {{expression}} nor {{noun}} in it")

    def asked(self, expression: str, noun: str) -> str:
        """The question about an expression."""
        return self.question.replace("{expression}", expression).replace("{noun}", noun)


def view_of(image: Image.Image, mask: BoolArray, how: Verification) -> Image.Image:
    """The region as the model is shown it: RGB, of the crop's size or the image's."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    if how.view == "crop":
        return image.crop(_widened(box, how.margin, image.size))
    dark = Image.fromarray((np.asarray(image) * how.shade).astype(np.uint8))
    shown = Image.composite(image, dark, Image.fromarray(mask.astype(np.uint8) * 255))
    width = max(1, round(min(image.size) / 150))
    ImageDraw.Draw(shown).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(255, 0, 0), width=width)
    return shown


def _widened(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    across, down = margin * (x1 - x0), margin * (y1 - y0)
    return (
        max(0, int(x0 - across)),
        max(0, int(y0 - down)),
        min(size[0], int(np.ceil(x1 + across))),
        min(size[1], int(np.ceil(y1 + down))),
    )
