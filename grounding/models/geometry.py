"""The part of the original picture that each view, tile and cell of a model covers.

For processors that resize and crop, settings are read from the processor and applied as transformers applies them:
optional padding to a square, resize, optional centre crop. Pixel coordinates are continuous, a pixel's centre lies at
+0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grounding.errors import ModelError
from grounding.geometry import Box
from grounding.layout import ImageGrid
from grounding.types import IntArray


def viewed_box(
    image_size: tuple[int, int], image_processor: Any, pixels_hw: tuple[int, int], used_hw: tuple[int, int]
) -> Box:
    """The rectangle of the original picture that the model's patches cover.

    Args:
        image_size: (width, height) of the original picture.
        image_processor: a transformers image processor that resizes and centre-crops (CLIP's and LLaVA's, either
            backend).
        pixels_hw: (height, width) of the array it made of this picture.
        used_hw: (height, width) of the part of that array that whole patches cover, from the top left corner.

    Returns:
        (x0, y0, x1, y1) in pixels of the original picture. It reaches over the border where the processor pads.

    Raises:
        ModelError: the processor's settings do not explain the size of the array it made.
    """
    width, height = image_size
    left = top = 0.0  # corner of the model's array, in pixels of the original picture
    if getattr(image_processor, "do_pad", False):
        side = max(width, height)
        left, top = -float((side - width) // 2), -float((side - height) // 2)
        frame = (side, side)
    else:
        frame = (width, height)
    resized = _resized(frame, image_processor) if getattr(image_processor, "do_resize", False) else frame
    scale_x, scale_y = frame[0] / resized[0], frame[1] / resized[1]
    seen = resized
    if getattr(image_processor, "do_center_crop", False):
        crop = image_processor.crop_size
        seen = (_edge(crop, "width"), _edge(crop, "height"))
        rounds_up = _is_pil(image_processor)
        left += _crop_start(resized[0], seen[0], rounds_up) * scale_x
        top += _crop_start(resized[1], seen[1], rounds_up) * scale_y
    if (seen[1], seen[0]) != tuple(pixels_hw):
        raise ModelError(
            f"the image processor {type(image_processor).__name__} made {pixels_hw[1]}x{pixels_hw[0]} pixels of a "
            f"{width}x{height} picture, but its settings say {seen[0]}x{seen[1]}: its way of resizing is not known, so "
            "cells cannot be placed in the picture; use a CLIP or LLaVA image processor"
        )
    return (left, top, left + used_hw[1] * scale_x, top + used_hw[0] * scale_y)


def whole(image_size: tuple[int, int]) -> Box:
    """The box of a picture of (width, height) pixels."""
    return (0.0, 0.0, float(image_size[0]), float(image_size[1]))


def tile_boxes(image_size: tuple[int, int], rows: int, columns: int) -> list[Box]:
    """The boxes of equal tiles, row by row, of a picture of (width, height) pixels that they cover exactly."""
    width, height = image_size
    return [
        (width * j / columns, height * i / rows, width * (j + 1) / columns, height * (i + 1) / rows)
        for i in range(rows)
        for j in range(columns)
    ]


def square_grids(positions: IntArray, boxes: Sequence[Box], name: str) -> tuple[ImageGrid, ...]:
    """One square grid of cells per box, from positions that follow one another.

    Args:
        positions: (n,) positions of a picture's image tokens.
        boxes: what each grid covers, in pixels of the original.
        name: the model, for the error message.

    Raises:
        ModelError: the positions do not make up as many squares.
    """
    side = math.isqrt(len(positions) // len(boxes))
    if len(positions) != len(boxes) * side * side:
        raise ModelError(
            f"{name} has {len(positions)} image tokens for a picture of {len(boxes)} views: expected as many square "
            "grids; make the numbers of tokens and tiles of its processor agree with its config"
        )
    parts = np.split(positions, len(boxes))
    return tuple(ImageGrid(own, (side, side), box) for own, box in zip(parts, boxes, strict=True))


def _resized(frame: tuple[int, int], image_processor: Any) -> tuple[int, int]:
    """(width, height) after the processor's resize, as `TorchvisionBackend.resize` and `PilBackend.resize` do it."""
    size = image_processor.size
    width, height = frame
    if shortest := _edge(size, "shortest_edge"):
        if longest := _edge(size, "longest_edge"):
            from transformers.image_transforms import get_size_with_aspect_ratio

            new_height, new_width = get_size_with_aspect_ratio((height, width), shortest, longest)
            return int(new_width), int(new_height)
        if width <= height:
            return shortest, int(shortest * height / width)
        return int(shortest * width / height), shortest
    if _edge(size, "height") and _edge(size, "width"):
        return _edge(size, "width"), _edge(size, "height")
    raise ModelError(
        f"the image processor {type(image_processor).__name__} resizes by {size!r}: expected a shortest edge, or a "
        "height and a width"
    )


def _edge(size: Any, name: str) -> int:
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return int(value or 0)


def _crop_start(length: int, crop: int, rounds_up: bool) -> int:
    if crop <= length:
        return (length - crop) // 2
    missing = crop - length  # the processor pads with zeros; its two backends place an odd pixel differently
    return -((missing + 1) // 2 if rounds_up else missing // 2)


def _is_pil(image_processor: Any) -> bool:
    backend = getattr(image_processor, "backend", None)
    return backend == "pil" if backend is not None else not type(image_processor).__name__.endswith("Fast")
