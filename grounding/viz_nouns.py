"""Picture of a description: the text with its doubtful nouns in red, and one panel per noun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from grounding.types import Heatmap, PointPrompts, Segment
from grounding.viz import INK, NEGATIVE, PAPER, QUIET, blend_map, blend_mask, contrasting, draw_points, fit, font, wrap

_MARGIN = 16
_COLUMNS = 4


@dataclass(frozen=True)
class NounPanel:
    """One noun and what is drawn for it.

    Attributes:
        flagged: (start, end) characters of the text that are drawn in red.
        title: the noun.
        note: line below the title.
        doubtful: draw the title in red.
        heatmap: its map.
        points: its point prompts.
        segment: its mask; if given, the panel shows the map on the left and the mask on the right.
    """

    flagged: tuple[tuple[int, int], ...]
    title: str
    note: str
    doubtful: bool
    heatmap: Heatmap
    points: PointPrompts | None = None
    segment: Segment | None = None


def noun_sheet(
    image: Image.Image, text: str, nouns: Sequence[NounPanel], note: str = "", *, side: int = 260
) -> Image.Image:
    """Draw a description of an image.

    Args:
        image: the original image.
        text: the description.
        nouns: its nouns in order.
        note: line below the text.
        side: longer side of one image in pixels.

    Returns:
        An RGB image; its first panel is the image alone.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    frame = (size[0] / image.width, size[1] / image.height)
    panels = [("image", "", False, small)]
    panels += [(one.title, one.note, one.doubtful, _panel(small, one, frame)) for one in nouns]
    cell = max(side, *(panel.width for *_, panel in panels))  # the lines below a narrow image may be wider than it
    columns = min(_COLUMNS if cell == side else _COLUMNS - 1, max(3, len(panels)))
    width = _MARGIN + columns * (cell + _MARGIN)
    heading = _heading(text, nouns, note, width)
    below = [wrap(words, font(13), cell) for _, words, _, _ in panels]
    row = size[1] + 38 + 16 * max(map(len, below))
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (width, heading.height + rows * row + _MARGIN), PAPER)
    sheet.paste(heading, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for number, (title, _, doubtful, panel) in enumerate(panels):
        left, top = _MARGIN + number % columns * (cell + _MARGIN), heading.height + number // columns * row
        colour = NEGATIVE if doubtful else INK
        sheet.paste(panel, (left, top))
        pen.rectangle([left - 1, top - 1, left + panel.width, top + panel.height], outline=(214, 218, 226))
        pen.text((left, top + size[1] + 5), fit(title, font(15, bold=True), cell), colour, font(15, bold=True))
        for index, line in enumerate(below[number]):
            pen.text((left, top + size[1] + 25 + 16 * index), line, QUIET, font(13))
    return sheet


def _panel(small: Image.Image, noun: NounPanel, frame: tuple[float, float]) -> Image.Image:
    mapped = blend_map(small, noun.heatmap)
    if noun.points is not None:
        draw_points(mapped, noun.points, frame)
    if noun.segment is None:
        return mapped
    pair = Image.new("RGB", (2 * small.width + 4, small.height), PAPER)
    pair.paste(mapped, (0, 0))
    pair.paste(blend_mask(small, noun.segment.mask, contrasting(small, noun.segment.mask)), (small.width + 4, 0))
    return pair


def _heading(text: str, nouns: Sequence[NounPanel], note: str, width: int) -> Image.Image:
    """Draw the text in wrapped lines, doubtful nouns in red."""
    letters, line = font(18), 26
    doubtful = [span for one in nouns for span in one.flagged]
    placed: list[tuple[float, int, str, bool]] = []
    x, y, at = float(_MARGIN), _MARGIN, 0
    for word in text.split():
        at = text.index(word, at)
        red = any(start < at + len(word) and at < end for start, end in doubtful)
        at += len(word)
        shown = fit(word, letters, width - 2 * _MARGIN)
        if x > _MARGIN and x + letters.getlength(shown) > width - _MARGIN:
            x, y = float(_MARGIN), y + line
        placed.append((x, y, shown, red))
        x += letters.getlength(shown + " ")
    below = y + line + 4
    heading = Image.new("RGB", (width, below + (24 if note else 0) + 8), PAPER)
    pen = ImageDraw.Draw(heading)
    for left, top, word, red in placed:
        pen.text((left, top), word, NEGATIVE if red else INK, letters)
    pen.text((_MARGIN, below), fit(note, font(14), width - 2 * _MARGIN), QUIET, font(14))
    return heading
