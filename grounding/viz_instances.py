"""Picture of many instances: the image with their points, and the image with every mask and its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from grounding.types import Segment
from grounding.viz import INK, MASKS, NEGATIVE, PAPER, Colour, draw_points, fit, font, wrap

_MARGIN = 16
_TINT = 0.5
_MOST_LABELS = 60  # of a picture with more instances only the best are named on it


def instance_sheet(
    image: Image.Image,
    segments: Sequence[Segment],
    labels: Sequence[str],
    notes: Sequence[str] = (),
    *,
    side: int = 640,
) -> Image.Image:
    """Draw the instances of a picture, best first.

    Args:
        image: the original image.
        segments: masks of its size with their points.
        labels: what is written beside each.
        notes: sentences below the panels.
        side: longer side of a panel in pixels.

    Returns:
        An RGB image.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    frame = (size[0] / image.width, size[1] / image.height)
    with_points, with_masks = small.copy(), _tinted(small, segments)
    for segment in segments:
        draw_points(with_points, segment.points, frame)
    pen = ImageDraw.Draw(with_masks)
    for index, (segment, label) in reversed(list(enumerate(zip(segments, labels, strict=True)))):
        if index < _MOST_LABELS:
            _write(pen, size, segment, label, frame, _colour(index))
    width = 2 * size[0] + 3 * _MARGIN
    heading = f"{len(segments)} instance{'s' * (len(segments) != 1)}"
    lines = [line for note in notes for line in wrap(note, font(14), width - 2 * _MARGIN)]
    sheet = Image.new("RGB", (width, size[1] + 2 * _MARGIN + 30 + 20 * len(lines)), PAPER)
    below = ImageDraw.Draw(sheet)
    below.text((_MARGIN, 10), fit(heading, font(20, bold=True), width - 2 * _MARGIN), INK, font(20, bold=True))
    for number, panel in enumerate((with_points, with_masks)):
        sheet.paste(panel, (_MARGIN + number * (size[0] + _MARGIN), _MARGIN + 26))
    for number, line in enumerate(lines):
        below.text((_MARGIN, size[1] + _MARGIN + 34 + 20 * number), line, NEGATIVE, font(14))
    return sheet


def _colour(index: int) -> Colour:
    return MASKS[index % len(MASKS)]


def _tinted(image: Image.Image, segments: Sequence[Segment]) -> Image.Image:
    """The image with a tint and an outline for every mask; better ones lie on top."""
    pixels = np.asarray(image, np.float32).copy()
    for index, segment in reversed(list(enumerate(segments))):
        mask = np.asarray(Image.fromarray(segment.mask).resize(image.size, Image.Resampling.NEAREST))
        colour = np.array(_colour(index), np.float32)
        pixels[mask] = pixels[mask] * (1 - _TINT) + colour * _TINT
        pixels[mask & ~ndimage.binary_erosion(mask, iterations=2)] = colour
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    segment: Segment,
    label: str,
    frame: tuple[float, float],
    colour: Colour,
) -> None:
    """Write a label on the upper left of a mask's box, inside the panel."""
    letters = font(13, bold=True)
    text = fit(label, letters, size[0] - 8)
    left, top = segment.box_xyxy[0] * frame[0], segment.box_xyxy[1] * frame[1]
    x = max(0.0, min(left, size[0] - letters.getlength(text) - 8))
    y = max(0.0, min(top, size[1] - 18.0))
    pen.rectangle([x, y, x + letters.getlength(text) + 8, y + 18], fill=colour)
    pen.text((x + 4, y + 1), text, PAPER, letters)
