"""Qwen2-VL to Qwen3-VL: the whole picture near its own size, one token per 2x2 patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from grounding.errors import ImageError, ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.clips import ClipReader
from grounding.models.geometry import whole
from grounding.models.own_words import OwnWords
from grounding.models.picture import Picture
from grounding.types import IntArray

LONGEST_ASPECT = 200  # the limit of transformers' `smart_resize`


class QwenClips(ClipReader):
    """Clips of Qwen2-VL to Qwen3-VL.

    Two frames make one step of time; a last odd frame counts twice. Each step has one grid over the whole frame, named
    by the first frame that it stands for. Qwen3-VL writes each step's time before it, whose tokens are separators.
    """

    model_types = ()

    def check_picture(self, image: Image.Image) -> None:
        """Refuse frames that `smart_resize` refuses; see `QwenVL.check_picture`."""
        check_aspect(image, self.name)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of merged patches for each step of time; see `VLM.grids`."""
        steps, height, width = (int(side) for side in picture.entry("video_grid_thw"))
        merge = int(self.model.config.vision_config.spatial_merge_size)
        joined = int(self.model.config.vision_config.temporal_patch_size)
        rows, columns = height // merge, width // merge
        if steps * rows * columns != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} tokens for a clip of {steps}x{height}x{width} patches merged by "
                f"{merge}x{merge}: expected {steps * rows * columns}; make merge_size of its processor agree with its "
                "config"
            )
        parts = np.split(positions, steps)
        return tuple(
            ImageGrid(own, (rows, columns), whole(picture.size), frame=step * joined) for step, own in enumerate(parts)
        )


class Qwen3Clips(QwenClips):
    """Clips of Qwen3-VL, whose processor refuses a single frame instead of counting it twice."""

    fewest_frames = 2


class Qwen35Clips(Qwen3Clips):
    """Clips of Qwen3.5 and 3.6, asked to answer without thinking."""

    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}


class QwenVL(VLM):
    """Qwen2.5-VL, and what its successors share.

    `smart_resize` rounds both sides to whole merged patches within a budget of pixels and does not crop, so the grid
    covers the whole picture. Cells are square up to that rounding. `<|vision_start|>` and `<|vision_end|>` around the
    image tokens are written by the chat template and count as its text.

    Notes:
        The question for an expression is that of Qwen2.5-VL's cookbook (github.com/QwenLM/Qwen2.5-VL,
        cookbooks/spatial_understanding.ipynb).
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    family_words: ClassVar[OwnWords] = OwnWords(
        prompt="Locate {expression}, output its bbox coordinates using JSON format."
    )
    clip_reader_class: ClassVar[type[ClipReader]] = QwenClips

    # Patches run through the tower in the order of its windows, and the merger's rows are in that order too, so
    # `projector` stays None: features are the image tokens as they enter the language model.

    def check_picture(self, image: Image.Image) -> None:
        """Refuse a picture that `smart_resize` refuses.

        Raises:
            ImageError: the picture is more than 200 times as long as wide.
        """
        check_aspect(image, self.name)

    def grids(self, picture: Picture, positions: IntArray) -> tuple[ImageGrid, ...]:
        """One grid of merged patches; see `VLM.grids`."""
        frames, height, width = (int(side) for side in picture.entry("image_grid_thw"))
        merge = int(self.model.config.vision_config.spatial_merge_size)
        rows, columns = height // merge, width // merge
        if frames != 1 or rows * columns != len(positions):
            raise ModelError(
                f"{self.name} has {len(positions)} image tokens for {frames}x{height}x{width} patches merged by "
                f"{merge}x{merge}: expected 1 frame and {rows * columns} tokens; make merge_size of its processor "
                "agree with its config"
            )
        return (ImageGrid(positions, (rows, columns), whole(picture.size)),)


class Qwen2VL(QwenVL):
    """Qwen2-VL, which reads pictures as its successors do and is asked the common question."""

    model_types = ("qwen2_vl",)
    family_words = OwnWords()


class Qwen3VL(QwenVL):
    """Qwen3-VL and its mixture of experts.

    Pictures are read as Qwen2.5-VL reads them. Features of inner layers of the tower are added to the image tokens in
    the first decoder layers (deepstack), which changes no position.
    """

    model_types = ("qwen3_vl", "qwen3_vl_moe")
    clip_reader_class = Qwen3Clips


class Qwen35(QwenVL):
    """Qwen3.5 and 3.6 and their mixtures of experts.

    Pictures are read as Qwen3-VL reads them, without deepstack. Most decoder layers are linear attention and have no
    weights; each fourth is attention of wide heads with a gate behind it. The model is asked to answer without
    thinking.
    """

    model_types = ("qwen3_5", "qwen3_5_moe")
    family_words = OwnWords()
    clip_reader_class = Qwen35Clips
    template_options: ClassVar[Mapping[str, Any]] = {"enable_thinking": False}


def check_aspect(image: Image.Image, name: str) -> None:
    """Refuse a picture that `smart_resize` refuses.

    Raises:
        ImageError: it is more than 200 times as long as wide.
    """
    if max(image.size) > LONGEST_ASPECT * min(image.size):
        raise ImageError(
            f"a picture of {image.width}x{image.height} px is too long for {name}, which takes an aspect of at most "
            f"{LONGEST_ASPECT}: crop it first"
        )
