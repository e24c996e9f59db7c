"""Draw an explanation on one sheet: the words, the map stage by stage, the candidates, each beside its numbers.

Drawn with Pillow in the style of `grounding.viz`, from top to bottom:

1. the expression, each word tinted by its share of the attention and struck through where it was dropped;
2. the picture, and per word its own map, share, spatial variation, kind and fate;
3. the map as recorded and after every stage, with what the stage took (blue) and what it brought forward (red);
4. the final map with its points, and the candidates with their scores, the chosen one framed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from grounding.explanation import OWN_POINTS, CandidateTrace, Explanation
from grounding.map_trace import StageTrace, as_shares
from grounding.types import Direction, Heatmap
from grounding.viz import (
    INK,
    NEGATIVE,
    PAPER,
    POSITIVE,
    QUIET,
    Colour,
    blend_map,
    blend_mask,
    contrasting,
    draw_points,
    fit,
    font,
    wrap,
)  # fmt: skip
from grounding.viz_words import INNER, RULE, expression_line, paste, scaled, tint, word_table

_MARGIN, _GAP = 44, 20
WIDTH = INNER + 2 * _MARGIN
"""Pixels across the sheet, whatever the picture."""
_LOST, _GAINED = (37, 99, 235), (220, 38, 38)
_OF_WORDS = "the mean of all words, layers and heads"
_RECORDED: dict[Direction, str] = {
    "word-to-image": _OF_WORDS,
    "image-to-word": _OF_WORDS,
    "model-to-image": "the mean of the models' maps",
}
_STILL = 0.005  # share of a map below which it counts as unmoved


def explanation_sheet(image: Image.Image, explanation: Explanation, notes: Sequence[str] = ()) -> Image.Image:
    """Draw an explanation.

    Args:
        image: the original image.
        explanation: of one result on it.
        notes: sentences at the foot, in red.

    Returns:
        An RGB image, `WIDTH` pixels wide and as high as its content.
    """
    picture = image.convert("RGB")
    trace = explanation.trace
    parts = [
        expression_line(explanation),
        word_table(picture, explanation),
        _heading(
            "The map, stage by stage",
            "moved: share of the map that lies elsewhere than before, blue lost and red gained; "
            "mass: attention that the stage took away",
        ),
        _stages(picture, trace.recorded, trace.stages, _RECORDED[trace.direction]),
        _heading("From the map to the mask", explanation.rule),
        _candidates(picture, explanation),
        _foot(notes),
    ]
    sheet = Image.new("RGB", (WIDTH, 2 * _MARGIN + sum(part.height for part in parts)), PAPER)
    top = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, top))
        top += part.height
    return sheet


def _stages(picture: Image.Image, recorded: Heatmap, stages: Sequence[StageTrace], about: str) -> Image.Image:
    """The map as recorded, with what it is, and after every stage."""
    count = len(stages) + 1
    rows = -(-count // 7)
    columns = -(-count // rows)
    cell = min(300, (INNER - _GAP * (columns - 1)) // columns)
    drawn = [_stage(picture, cell, "recorded", recorded, None, about)]
    maps = [recorded, *(one.map for one in stages)]
    for number, (stage, (before, after)) in enumerate(zip(stages, pairwise(maps), strict=True), 1):
        drawn.append(_stage(picture, cell, f"{number}  {stage.report.stage}", after, before, stage))
    return _grid(drawn, columns, cell, 18)


def _stage(
    picture: Image.Image, cell: int, name: str, after: Heatmap, before: Heatmap | None, about: StageTrace | str
) -> Image.Image:
    """One map with its name above and, below it, what the stage took and brought forward, or what the map is."""
    stage = about if isinstance(about, StageTrace) else None
    small = scaled(picture, cell - 2, round(cell * 0.8))
    detail = about.report.detail if isinstance(about, StageTrace) else about
    if not after.values.any():
        detail += "; flat: no cell stands out" if stage is not None else ", which is flat: no cell stands out"
    lines = wrap(detail, font(13), cell, 3)
    mini = scaled(picture, round(cell * 0.42), round(cell * 0.36))
    note_top = 24 + small.height + 10
    has_difference = stage is not None and stage.moved >= _STILL
    block = mini.height + 10 if has_difference else 0
    label = 22 if stage is not None and not has_difference else 0
    part = Image.new("RGB", (cell, note_top + block + label + 17 * len(lines) + 4), PAPER)
    pen = ImageDraw.Draw(part)
    pen.text((0, 0), fit(name, font(15, bold=True), cell), INK, font(15, bold=True))
    paste(part, blend_map(small, after), (1, 25))
    if stage is not None and before is not None and has_difference:
        paste(part, _difference(mini, before, after), (1, note_top + 1))
        x = mini.width + 12
        pen.text((x, note_top), f"{stage.moved:.0%}", INK, font(17, bold=True))
        pen.text((x, note_top + 21), "moved", QUIET, font(13))
        if stage.report.removed >= _STILL and mini.height > 52:
            pen.text((x, note_top + 40), fit(f"{_taken(stage)} mass", font(13), cell - x), QUIET, font(13))
    elif stage is not None:
        taken = f", {_taken(stage)} mass" if stage.report.removed >= _STILL else ""
        pen.text((0, note_top), fit(f"map unmoved{taken}", font(13), cell), QUIET, font(13))
    for number, line in enumerate(lines):
        pen.text((0, note_top + block + label + 17 * number), line, QUIET, font(13))
    return part


def _taken(stage: StageTrace) -> str:
    """The share of the attention that a stage took away; nearly all is not called all."""
    removed = stage.report.removed
    return f"−{removed:.1%}" if 0.995 <= removed < 1 else f"−{removed:.0%}"


def _difference(small: Image.Image, before: Heatmap, after: Heatmap) -> Image.Image:
    """What a stage moved, over a pale picture: blue where the map's share fell, red where it rose."""
    cells = (as_shares(after.values) - as_shares(before.values)).astype(np.float32)
    change = np.asarray(Image.fromarray(cells).resize(small.size, Image.Resampling.BILINEAR))
    strength = np.sqrt(np.abs(change) / max(float(np.abs(change).max()), 1e-12))[..., None] * 0.9
    grey = np.asarray(small.convert("L"), np.float64)[..., None] * 0.25 + 0.75 * 255
    colour = np.where(change[..., None] > 0, np.array(_GAINED, np.float64), np.array(_LOST, np.float64))
    return Image.fromarray(np.rint(grey * (1 - strength) + colour * strength).astype(np.uint8))


def _candidates(picture: Image.Image, explanation: Explanation) -> Image.Image:
    """The final map with its points, and the candidates."""
    candidates = explanation.candidates
    columns = max(4, min(5, len(candidates) + 1))
    cell = (INNER - _GAP * (columns - 1)) // columns
    small = scaled(picture, cell - 2, round(cell * 0.85))
    frame = (small.width / picture.width, small.height / picture.height)
    final = blend_map(small, explanation.trace.map)
    draw_points(final, explanation.points, frame)
    on = int(explanation.points.label.sum())
    off = len(explanation.points.label) - on
    placed = f"{on} point{'s' * (on != 1)} on the object" + (f", {off} off it" if off else "")
    if explanation.points.box_xyxy is not None:
        placed += ", and a box"
    drawn = [_card(final, cell, "final map", [placed], None)]
    if candidates:
        colour = contrasting(small, (explanation.chosen or candidates[0]).mask)
        for number, one in enumerate(candidates, 1):
            drawn.append(_candidate(small, cell, number, one, colour, explanation.confidence))
    return _grid(drawn, columns, cell, 14)


def _grid(drawn: Sequence[Image.Image], columns: int, cell: int, below: int) -> Image.Image:
    """Pictures in rows of `columns` cells; a row is as high as its highest and has some pixels below."""
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heights = [max(one.height for one in row) + below for row in rows]
    part = Image.new("RGB", (INNER, sum(heights)), PAPER)
    for number, row in enumerate(rows):
        for column, one in enumerate(row):
            part.paste(one, (column * (cell + _GAP), sum(heights[:number])))
    return part


def _candidate(
    small: Image.Image, cell: int, number: int, one: CandidateTrace, colour: Colour, confidence: float | None
) -> Image.Image:
    shown = blend_mask(small, one.mask, colour)
    if not one.chosen:
        shown = Image.blend(shown, Image.new("RGB", shown.size, PAPER), 0.3)
    own = one.origin == OWN_POINTS
    plain = own and one.why.startswith(("estimate", "agreement"))
    scored = f"score {one.score:.2f}" if plain else f"score: {one.why}" if own else f"score {one.score:.2f}: {one.why}"
    measured = f"estimate {one.estimated_iou:.2f}, agreement {one.agreement:.2f}, area {one.mask.mean():.1%}"
    origin = () if own else (one.origin,)
    lines = [*origin, *(text.replace("-", "−") for text in (measured, scored))]
    title = f"candidate {number}" + (", chosen" if one.chosen else "")
    title += f", confidence {confidence:.2f}" if one.chosen and confidence is not None else ""
    return _card(shown, cell, title, lines, colour if one.chosen else None)


def _card(shown: Image.Image, cell: int, title: str, lines: Sequence[str], frame: Colour | None) -> Image.Image:
    wrapped = [each for line in lines for each in wrap(line, font(13), cell, 4)]
    part = Image.new("RGB", (cell, 30 + shown.height + 12 + 18 * len(wrapped)), PAPER)
    pen = ImageDraw.Draw(part)
    pen.text((0, 0), title, INK if frame is not None or title == "final map" else QUIET, font(15, bold=True))
    paste(part, shown, (1, 27))
    if frame is not None:
        right, bottom = shown.width, 26 + shown.height
        edge = 4 if min(shown.size) > 16 else 1
        pen.rectangle([1, 27, right, bottom], outline=frame, width=edge)
        if edge > 1:
            pen.rectangle([1 + edge, 27 + edge, right - edge, bottom - edge], outline=PAPER)
    for number, line in enumerate(wrapped):
        pen.text((0, 30 + shown.height + 10 + 18 * number), line, INK if frame is not None else QUIET, font(13))
    return part


def _heading(title: str, note: str) -> Image.Image:
    """A rule across the sheet, and below it what the next part shows."""
    heading, small = font(19, bold=True), font(14)
    part = Image.new("RGB", (INNER, 60), PAPER)
    pen = ImageDraw.Draw(part)
    pen.line([0, 0, INNER, 0], fill=RULE)
    pen.text((0, 36), title, INK, heading, anchor="ls")
    left = heading.getlength(title) + 18
    pen.text((left, 36), fit(note, small, INNER - left), QUIET, small, anchor="ls")
    return part


def _foot(notes: Sequence[str]) -> Image.Image:
    """The legend, and the notes."""
    small = font(13)
    lines = [line for note in notes for line in wrap(note, small, INNER)]
    part = Image.new("RGB", (INNER, 48 + 19 * len(lines)), PAPER)
    pen = ImageDraw.Draw(part)
    pen.line([0, 8, INNER, 8], fill=RULE)
    x, y = 0, 32
    bar = np.rint(matplotlib.colormaps["turbo"](np.linspace(0, 1, 120))[None, :, :3] * 255).astype(np.uint8)
    pen.text((x, y), "map 0", QUIET, small, anchor="lm")
    x += 48
    part.paste(Image.fromarray(np.repeat(bar, 10, axis=0)), (x, y - 5))
    x += 128
    pen.text((x, y), "1", QUIET, small, anchor="lm")
    x += 40
    for colour, sign, words in ((POSITIVE, "+", "point on the object"), (NEGATIVE, "−", "point off it")):
        pen.ellipse([x, y - 8, x + 16, y + 8], fill=colour)
        pen.text((x + 8, y), sign, PAPER, font(13, bold=True), anchor="mm")
        pen.text((x + 24, y), words, QUIET, small, anchor="lm")
        x += 24 + round(small.getlength(words)) + 28
    for share in (0.0, 0.5, 1.0):
        pen.rounded_rectangle([x, y - 8, x + 18, y + 8], 4, fill=tint(share, 1.0))
        x += 22
    tinted = "a word's share of the attention"
    pen.text((x + 4, y), tinted, QUIET, small, anchor="lm")
    x += 32 + round(small.getlength(tinted))
    variation = "variation: 0 where a word's attention is spread evenly"
    pen.text((x, y), fit(variation, small, INNER - x), QUIET, small, anchor="lm")
    for number, line in enumerate(lines):
        pen.text((0, 50 + 19 * number), line, NEGATIVE, small)
    return part
