"""Draw an explanation on one sheet: the words, the map stage by stage, the candidates, each beside its numbers.

Drawn with Pillow in the style of `grounding.viz`, from top to bottom:

1. the expression, each word tinted by its share of the attention and struck through where it was dropped;
2. the picture, and per word its own map, share, spatial variation, kind and fate;
3. the map as recorded and after every stage, with what the stage took (blue) and what it brought forward (red);
4. the final map with its points, and the candidates with their scores, the chosen one framed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from grounding.explanation import CandidateTrace, Explanation, StageTrace, WordTrace, as_shares
from grounding.maps.base import LAST
from grounding.types import Heatmap, WordKind
from grounding.viz import (
    INK,
    MASKS,
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

WIDTH = 1400
"""Pixels across the sheet, whatever the picture."""

_MARGIN, _GAP = 44, 20
_INNER = WIDTH - 2 * _MARGIN
_RULE: Colour = (226, 229, 235)
_FAINT: Colour = (160, 166, 177)
_TINT: Colour = (56, 120, 255)  # of words and of their bars
_LOST, _GAINED = (37, 99, 235), (220, 38, 38)
_ROWS = 14  # lines of the word table at most; the rest are summed up in one line
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
        _expression(explanation),
        _words(picture, explanation),
        _heading(
            "The map, stage by stage",
            "moved: share of the map that lies elsewhere than before, blue lost and red gained; "
            "mass: attention that the stage took away",
        ),
        _stages(picture, trace.recorded, trace.stages),
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


@dataclass(frozen=True)
class _Chip:
    """A piece of the expression: a word with its trace, or what stands between words."""

    text: str
    word: WordTrace | None = None


def _expression(explanation: Explanation) -> Image.Image:
    chips = _chips(explanation)
    size = 34 if font(34).getlength("".join(chip.text for chip in chips)) < 2 * _INNER else 22
    letters, high = font(size), round(size * 1.35)
    line = high + 30
    most = max((chip.word.share for chip in chips if chip.word), default=0.0)
    placed: list[tuple[float, int, str, WordTrace | None]] = []
    x, y = 0.0, 0
    for chip in chips:
        text = fit(chip.text, letters, _INNER - 12)
        width = letters.getlength(text) + (10 if chip.word else 0)
        if x > 0 and x + width > _INNER and text.strip():
            x, y = 0.0, y + line
        if x > 0 or text.strip():
            placed.append((x, y, text, chip.word))
            x += width
    part = Image.new("RGB", (_INNER, y + line + 36), PAPER)
    pen = ImageDraw.Draw(part)
    for left, top, text, word in placed:
        if word is None:
            pen.text((left, top + high / 2), text, QUIET, letters, anchor="lm")
            continue
        width, middle = letters.getlength(text) + 10, top + high / 2
        gone = word.dropped is not None
        pen.rounded_rectangle([left, top, left + width, top + high], 7, fill=_tint(word.share, most))
        pen.text((left + 5, middle), text, QUIET if gone else INK, letters, anchor="lm")
        if gone:
            pen.line([left + 3, middle, left + width - 3, middle], fill=QUIET, width=2)
        pen.text((left + width / 2, top + high + 5), _percent(word.share), QUIET, font(13), anchor="ma")
    looked = {
        "word-to-image": "how much the words attend to the cells of the image",
        "image-to-word": "how much the cells of the image attend to the words",
    }[explanation.trace.direction]
    about = f"{explanation.source}, method {explanation.method}: {looked}"
    pen.text((0, part.height - 30), fit(about, font(15), _INNER), QUIET, font(15))
    return part


def _percent(share: float) -> str:
    """A share for people: whole percents from 10 % on."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def _chips(explanation: Explanation) -> list[_Chip]:
    """The expression as words and what is between them, and behind it the words that were appended to it."""
    text, at = explanation.expression, 0
    chips: list[_Chip] = []
    outside = []
    for one in sorted(explanation.trace.words, key=lambda each: each.word.span):
        start, end = one.word.span
        if start == end or text[start:end].lower() != one.word.text.lower():
            outside.append(one)
        elif start >= at:  # of two words on the same letters the first is drawn
            if start > at:
                chips.append(_Chip(text[at:start]))
            chips.append(_Chip(text[start:end], one))
            at = end
    if at < len(text):
        chips.append(_Chip(text[at:]))
    for one in outside:
        if one.word.kind == WordKind.MAGNET:
            chips += [_Chip("  + "), _Chip(one.word.text, one)]
    return chips


@dataclass(frozen=True)
class _Row:
    """One line of the word table: a word, or a run of equal special tokens.

    Attributes:
        words: at least one.
    """

    words: tuple[WordTrace, ...]

    @property
    def first(self) -> WordTrace:
        """The word, for what the run has in common."""
        return self.words[0]

    @property
    def name(self) -> str:
        """The word, and how many times."""
        name = "last token" if self.first.word.text == LAST else self.first.word.text
        return f"{name} × {len(self.words)}" if len(self.words) > 1 else name

    @property
    def share(self) -> float:
        """Of all together."""
        return sum(one.share for one in self.words)

    @property
    def variation(self) -> float:
        """The mean."""
        return sum(one.variation for one in self.words) / len(self.words)

    @property
    def weight(self) -> float:
        """Of all together in the final map."""
        return sum(one.weight for one in self.words)

    @property
    def map(self) -> Heatmap:
        """The mean."""
        values = np.mean([one.map.values for one in self.words], axis=0)
        return Heatmap(values.astype(np.float32), self.first.map.image_size)


def _rows(words: Sequence[WordTrace]) -> list[_Row]:
    """The words as lines; equal special tokens that follow one another, such as pads, share one."""
    rows: list[_Row] = []
    for one in words:
        last = rows[-1].first if rows else None
        if (
            last is not None
            and one.word.kind == last.word.kind == WordKind.SPECIAL
            and (one.word.text, one.dropped) == (last.word.text, last.dropped)
        ):
            rows[-1] = _Row((*rows[-1].words, one))
        else:
            rows.append(_Row((one,)))
    return rows


def _words(picture: Image.Image, explanation: Explanation) -> Image.Image:
    """The picture, and the table of words on its right."""
    shown, rest = _shown(_rows(explanation.trace.words))
    row = 48 if len(shown) <= 8 else 38
    table_height = 30 + row * len(shown) + (26 if rest else 0)
    small = _scaled(picture, 460, max(260, min(460, table_height)))
    left = max(small.width, 260) + 44
    part = Image.new("RGB", (_INNER, max(small.height + 2, table_height) + 36), PAPER)
    pen = ImageDraw.Draw(part)
    _paste(part, small, (1, 1))
    columns = _Columns(left, _INNER)
    for x, name, anchor in columns.names():
        pen.text((x, 4), name, QUIET, font(13), anchor=anchor)
    pen.line([left, 27, _INNER, 27], fill=_RULE)
    most = max((one.share for one in shown), default=0.0)
    for number, one in enumerate(shown):
        _word_row(part, picture, one, columns, 30 + number * row, row, most)
    if rest:
        count, share = sum(len(one.words) for one in rest), sum(one.share for one in rest)
        more = (
            f"and {count} more word{'s' * (count > 1)} with {_percent(share)} of the attention, dropped or with little"
        )
        pen.text((left, 36 + row * len(shown)), more, QUIET, font(13))
    return part


@dataclass(frozen=True)
class _Columns:
    """Where the columns of the word table stand.

    Attributes:
        left: of the table.
        right: of the table.
    """

    left: int
    right: int

    @property
    def map(self) -> int:
        """Left side of a word's own map."""
        return self.left + 158

    @property
    def share(self) -> int:
        """Left side of the bars."""
        return self.left + 250

    @property
    def variation(self) -> int:
        """Right side of the variation."""
        return self.left + 470

    @property
    def kind(self) -> int:
        """Left side of the kind."""
        return self.left + 500

    @property
    def fate(self) -> int:
        """Left side of what became of the word."""
        return self.left + 596

    def names(self) -> list[tuple[int, str, str]]:
        """x, title and anchor of every column."""
        return [
            (self.left, "word", "la"),
            (self.map, "its map", "la"),
            (self.share, "share of attention", "la"),
            (self.variation, "variation", "ra"),
            (self.kind, "kind", "la"),
            (self.fate, "in the map", "la"),
        ]


def _word_row(
    part: Image.Image, picture: Image.Image, one: _Row, at: _Columns, top: int, height: int, most: float
) -> None:
    pen = ImageDraw.Draw(part)
    word, dropped, middle = one.first.word, one.first.dropped, top + height // 2
    ink = INK if dropped is None else QUIET
    letters, small = font(17, bold=word.is_head), font(14)
    name = fit(one.name, letters, at.map - at.left - 12)
    pen.text((at.left, middle), name, ink, letters, anchor="lm")
    if dropped is not None:
        pen.line([at.left, middle + 1, at.left + letters.getlength(name), middle + 1], fill=QUIET, width=1)
    thumb = blend_map(_scaled(picture, 78, height - 6), one.map)
    _paste(part, thumb, (at.map, middle - thumb.height // 2))
    reach = 106
    length = round(reach * one.share / most) if most > 0 else 0
    pen.rounded_rectangle([at.share, middle - 5, at.share + reach, middle + 5], 3, fill=(243, 245, 248))
    if length:
        bar = _mix(_TINT, 0.85 if dropped is None else 0.35)
        pen.rounded_rectangle([at.share, middle - 5, at.share + max(length, 4), middle + 5], 3, fill=bar)
    pen.text((at.share + reach + 56, middle), f"{one.share:.1%}", ink, small, anchor="rm")
    pen.text((at.variation, middle), f"{one.variation:.2f}", ink, small, anchor="rm")
    pen.text((at.kind, middle), "head noun" if word.is_head else str(word.kind), ink, small, anchor="lm")
    if dropped is None:
        pen.text((at.fate, middle), "✓", POSITIVE, font(15), anchor="lm")
    else:
        pen.text((at.fate, middle), "✗", _FAINT, font(15), anchor="lm")
    lines = wrap(f"weight {one.weight:.2f}" if dropped is None else dropped.why, small, at.right - at.fate - 20, 2)
    for number, line in enumerate(lines):
        shift = 17 * (number - (len(lines) - 1) / 2)
        pen.text((at.fate + 20, middle + shift), line, ink, small, anchor="lm")


def _stages(picture: Image.Image, recorded: Heatmap, stages: Sequence[StageTrace]) -> Image.Image:
    """The map as recorded, and after every stage."""
    count = len(stages) + 1
    rows = -(-count // 7)
    columns = -(-count // rows)
    cell = min(300, (_INNER - _GAP * (columns - 1)) // columns)
    drawn = [_stage(picture, cell, "recorded", recorded, None, None)]
    maps = [recorded, *(one.map for one in stages)]
    for number, (one, (before, after)) in enumerate(zip(stages, pairwise(maps), strict=True), 1):
        drawn.append(_stage(picture, cell, f"{number}  {one.report.stage}", after, before, one))
    height = max(one.height for one in drawn) + 18
    part = Image.new("RGB", (_INNER, rows * height + 10), PAPER)
    for number, one in enumerate(drawn):
        part.paste(one, (number % columns * (cell + _GAP), number // columns * height))
    return part


def _stage(
    picture: Image.Image, cell: int, name: str, after: Heatmap, before: Heatmap | None, stage: StageTrace | None
) -> Image.Image:
    """One map with its name above and, below it, what the stage took and brought forward."""
    small = _scaled(picture, cell - 2, round(cell * 0.8))
    detail = stage.report.detail if stage is not None else "the mean of all words, layers and heads"
    if not after.values.any():
        detail += "; flat: no cell stands out" if stage is not None else ", which is flat: no cell stands out"
    lines = wrap(detail, font(13), cell, 3)
    mini = _scaled(picture, round(cell * 0.42), round(cell * 0.36))
    note_top = 24 + small.height + 10
    has_difference = stage is not None and stage.moved >= _STILL
    block = mini.height + 10 if has_difference else 0
    label = 22 if stage is not None and not has_difference else 0
    part = Image.new("RGB", (cell, note_top + block + label + 17 * len(lines) + 4), PAPER)
    pen = ImageDraw.Draw(part)
    pen.text((0, 0), fit(name, font(15, bold=True), cell), INK, font(15, bold=True))
    _paste(part, blend_map(small, after), (1, 25))
    if stage is not None and before is not None and has_difference:
        _paste(part, _difference(mini, before, after), (1, note_top + 1))
        x = mini.width + 12
        pen.text((x, note_top), f"{stage.moved:.0%}", INK, font(17, bold=True))
        pen.text((x, note_top + 21), "moved", QUIET, font(13))
        if stage.report.removed >= _STILL and mini.height > 52:
            pen.text((x, note_top + 40), fit(f"−{stage.report.removed:.0%} mass", font(13), cell - x), QUIET, font(13))
    elif stage is not None:
        taken = f", −{stage.report.removed:.0%} mass" if stage.report.removed >= _STILL else ""
        pen.text((0, note_top), fit(f"map unmoved{taken}", font(13), cell), QUIET, font(13))
    for number, line in enumerate(lines):
        pen.text((0, note_top + block + label + 17 * number), line, QUIET, font(13))
    return part


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
    cell = (_INNER - _GAP * (columns - 1)) // columns
    small = _scaled(picture, cell - 2, round(cell * 0.85))
    frame = (small.width / picture.width, small.height / picture.height)
    final = blend_map(small, explanation.trace.map)
    draw_points(final, explanation.points, frame)
    on = int(explanation.points.label.sum())
    off = len(explanation.points.label) - on
    placed = f"{on} point{'s' * (on != 1)} on the object" + (f", {off} off it" if off else "")
    if explanation.points.box_xyxy is not None:
        placed += ", and a box"
    drawn = [_card(final, cell, "final map", [placed], None)]
    colour = contrasting(small, explanation.chosen.mask, MASKS)
    for number, one in enumerate(candidates, 1):
        drawn.append(_candidate(small, cell, number, one, colour))
    rows = -(-len(drawn) // columns)
    height = max(one.height for one in drawn) + 14
    part = Image.new("RGB", (_INNER, rows * height), PAPER)
    for number, card in enumerate(drawn):
        part.paste(card, (number % columns * (cell + _GAP), number // columns * height))
    return part


def _candidate(small: Image.Image, cell: int, number: int, one: CandidateTrace, colour: Colour) -> Image.Image:
    shown = blend_mask(small, one.mask, colour)
    if not one.chosen:
        shown = Image.blend(shown, Image.new("RGB", shown.size, PAPER), 0.3)
    lines = [
        f"estimate {one.estimated_iou:.2f}, agreement {one.agreement:.2f}, area {one.mask.mean():.1%}",
        f"score {one.score:.2f}" if one.why.startswith(("estimate", "agreement")) else f"score: {one.why}",
    ]
    title = f"candidate {number}" + (", chosen" if one.chosen else "")
    return _card(shown, cell, title, lines, colour if one.chosen else None)


def _card(shown: Image.Image, cell: int, title: str, lines: Sequence[str], frame: Colour | None) -> Image.Image:
    wrapped = [each for line in lines for each in wrap(line, font(13), cell, 2)]
    part = Image.new("RGB", (cell, 30 + shown.height + 12 + 18 * len(wrapped)), PAPER)
    pen = ImageDraw.Draw(part)
    pen.text((0, 0), title, INK if frame is not None or title == "final map" else QUIET, font(15, bold=True))
    _paste(part, shown, (1, 27))
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
    part = Image.new("RGB", (_INNER, 60), PAPER)
    pen = ImageDraw.Draw(part)
    pen.line([0, 0, _INNER, 0], fill=_RULE)
    pen.text((0, 36), title, INK, heading, anchor="ls")
    left = heading.getlength(title) + 18
    pen.text((left, 36), fit(note, small, _INNER - left), QUIET, small, anchor="ls")
    return part


def _foot(notes: Sequence[str]) -> Image.Image:
    """The legend, and the notes."""
    small = font(13)
    lines = [line for note in notes for line in wrap(note, small, _INNER)]
    part = Image.new("RGB", (_INNER, 48 + 19 * len(lines)), PAPER)
    pen = ImageDraw.Draw(part)
    pen.line([0, 8, _INNER, 8], fill=_RULE)
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
        pen.rounded_rectangle([x, y - 8, x + 18, y + 8], 4, fill=_tint(share, 1.0))
        x += 22
    tinted = "a word's share of the attention"
    pen.text((x + 4, y), tinted, QUIET, small, anchor="lm")
    x += 32 + round(small.getlength(tinted))
    variation = "variation: 0 where a word's attention is spread evenly"
    pen.text((x, y), fit(variation, small, _INNER - x), QUIET, small, anchor="lm")
    for number, line in enumerate(lines):
        pen.text((0, 50 + 19 * number), line, NEGATIVE, small)
    return part


def _shown(rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """The lines of the word table, in order, and those without room: first dropped ones with the least attention."""
    if len(rows) <= _ROWS:
        return list(rows), []
    ranked = sorted(range(len(rows)), key=lambda i: (rows[i].first.dropped is not None, -rows[i].share))
    chosen = set(ranked[: _ROWS - 1])
    split = [[one for i, one in enumerate(rows) if (i in chosen) == inside] for inside in (True, False)]
    return split[0], split[1]


def _scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as it fits."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _paste(part: Image.Image, shown: Image.Image, at: tuple[int, int], outline: bool = True) -> None:
    part.paste(shown, at)
    if outline:
        box = [at[0] - 1, at[1] - 1, at[0] + shown.width, at[1] + shown.height]
        ImageDraw.Draw(part).rectangle(box, outline=_RULE)


def _tint(share: float, most: float) -> Colour:
    return _mix(_TINT, 0.05 + 0.45 * (share / most if most > 0 else 0.0))


def _mix(colour: Colour, strength: float) -> Colour:
    """A colour on white paper."""
    red, green, blue = (round(255 + (value - 255) * strength) for value in colour)
    return red, green, blue
