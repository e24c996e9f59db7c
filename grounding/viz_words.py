"""Draw the words of an explanation: the expression tinted by their shares, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from grounding.explanation import Explanation
from grounding.map_trace import WordTrace
from grounding.maps.base import LAST
from grounding.types import Heatmap, Word, WordKind
from grounding.viz import INK, PAPER, POSITIVE, QUIET, Colour, blend_map, fit, font, one_line, wrap

INNER = 1312
"""Pixels across what an explanation's sheet holds between its margins."""
RULE: Colour = (226, 229, 235)
"""Colour of thin lines."""
_FAINT: Colour = (160, 166, 177)
_TINT: Colour = (56, 120, 255)  # of words and of their bars
_ROWS = 14  # lines of the word table at most
_COLUMNS = {
    "word": (0, "l"),
    "its map": (158, "l"),
    "share of attention": (250, "l"),
    "variation": (470, "r"),
    "kind": (500, "l"),
    "in the map": (596, "l"),
}
"""Per column of the word table its pixels from the table's left side, and whether its left or right side is there."""


@dataclass(frozen=True)
class _Chip:
    """A piece of the expression: a word with its trace, or what stands between words.

    Attributes:
        text: as the expression has it.
        word: its trace.
        lead: what is drawn before it on the same line.
    """

    text: str
    word: WordTrace | None = None
    lead: str = ""


def expression_line(explanation: Explanation) -> Image.Image:
    """Draw the expression, each word with its share, and what the attention is of; `INNER` pixels wide."""
    chips = _chips(explanation)
    size = 34 if font(34).getlength("".join(chip.text for chip in chips)) < 2 * INNER else 22
    letters, high = font(size), round(size * 1.35)
    line = high + 30
    most = max((chip.word.share for chip in chips if chip.word), default=0.0)
    placed: list[tuple[float, int, _Chip]] = []
    x, y = 0.0, 0
    for chip in chips:
        width = letters.getlength(chip.lead + fit(chip.text, letters, INNER - 90)) + (10 if chip.word else 0)
        if x > 0 and x + width > INNER and chip.text.strip():
            x, y = 0.0, y + line
        if x > 0 or chip.text.strip():
            placed.append((x, y, chip))
            x += width
    part = Image.new("RGB", (INNER, y + line + 36), PAPER)
    pen = ImageDraw.Draw(part)
    for start, top, chip in placed:
        text, word, left = fit(chip.text, letters, INNER - 90), chip.word, start + letters.getlength(chip.lead)
        middle = top + high / 2
        pen.text((start, middle), chip.lead, QUIET, letters, anchor="lm")
        if word is None:
            pen.text((left, middle), text, QUIET, letters, anchor="lm")
            continue
        width, share = letters.getlength(text) + 10, _percent(word.share)
        gone = word.dropped is not None
        pen.rounded_rectangle([left, top, left + width, top + high], 7, fill=tint(word.share, most))
        pen.text((left + 5, middle), text, QUIET if gone else INK, letters, anchor="lm")
        if gone:
            pen.line([left + 3, middle, left + width - 3, middle], fill=QUIET, width=2)
        at = max(left + width / 2, font(13).getlength(share) / 2)  # a short word's share is wider than the word
        pen.text((at, top + high + 5), share, QUIET, font(13), anchor="ma")
    looked = {
        "word-to-image": "how much the words attend to the cells of the image",
        "image-to-word": "how much the cells of the image attend to the words",
        "model-to-image": "where each model looks, by a method of its own",
    }[explanation.trace.direction]
    about = f"{explanation.source}, method {explanation.method}: {looked}"
    pen.text((0, part.height - 30), fit(about, font(15), INNER), QUIET, font(15))
    return part


def _percent(share: float) -> str:
    """A share for people: whole percents from 10 % on."""
    return f"{share:.0%}" if share >= 0.0995 else _tenths(share)


def _tenths(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _chips(explanation: Explanation) -> list[_Chip]:
    """The expression as words and what is between them, and behind it the words that were appended to it."""
    text, at = one_line(explanation.expression), 0
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
    magnets = [one for one in outside if one.word.kind == WordKind.MAGNET and not one.word.text.startswith("<")]
    return [*chips, *(_Chip(_plain(one.word), one, "  + ") for one in magnets)]


def _plain(word: Word) -> str:
    """A word as people write it: without the mark that a tokenizer has for the blank before it."""
    return word.text.strip("▁Ġ ") or word.text


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
        name = "last token" if self.first.word.text == LAST else _plain(self.first.word)
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


def word_table(picture: Image.Image, explanation: Explanation) -> Image.Image:
    """Draw the picture, and the table of words on its right; `INNER` pixels wide."""
    shown, rest = _shown(_rows(explanation.trace.words))
    row = 48 if len(shown) <= 8 else 38
    table_height = 30 + row * len(shown) + (26 if rest else 0)
    small = scaled(picture, 460, max(260, min(460, table_height)))
    left = max(small.width, 260) + 44
    part = Image.new("RGB", (INNER, max(small.height + 2, table_height) + 36), PAPER)
    pen = ImageDraw.Draw(part)
    paste(part, small, (1, 1))
    models = {"word": "model", "share of attention": "share of maps"}
    for title, (x, anchor) in _COLUMNS.items():
        title = models.get(title, title) if explanation.trace.direction == "model-to-image" else title
        pen.text((left + x, 4), title, QUIET, font(13), anchor=f"{anchor}a")
    pen.line([left, 27, INNER, 27], fill=RULE)
    most = max((one.share for one in shown), default=0.0)
    for number, one in enumerate(shown):
        _word_row(part, picture, one, left, 30 + number * row, row, most)
    if rest:
        count, share = sum(len(one.words) for one in rest), sum(one.share for one in rest)
        more = f"and {count} more word{'s' * (count > 1)} with {_percent(share)} of the attention, see the JSON"
        pen.text((left, 36 + row * len(shown)), more, QUIET, font(13))
    return part


def _word_row(
    part: Image.Image, picture: Image.Image, one: _Row, left: int, top: int, height: int, most: float
) -> None:
    pen = ImageDraw.Draw(part)
    word, dropped, middle = one.first.word, one.first.dropped, top + height // 2
    ink = INK if dropped is None else QUIET
    at = {title: left + x for title, (x, _) in _COLUMNS.items()}
    letters, small = font(17, bold=word.is_head), font(14)
    name = fit(one.name, letters, at["its map"] - left - 12)
    pen.text((left, middle), name, ink, letters, anchor="lm")
    if dropped is not None:
        pen.line([left, middle + 1, left + letters.getlength(name), middle + 1], fill=QUIET, width=1)
    thumb = blend_map(scaled(picture, 78, height - 6), one.map)
    paste(part, thumb, (at["its map"], middle - thumb.height // 2))
    reach = 106
    length = round(reach * one.share / most) if most > 0 else 0
    pen.rounded_rectangle(
        [at["share of attention"], middle - 5, at["share of attention"] + reach, middle + 5], 3, fill=(243, 245, 248)
    )
    if length:
        bar = _mix(_TINT, 0.85 if dropped is None else 0.35)
        pen.rounded_rectangle(
            [at["share of attention"], middle - 5, at["share of attention"] + max(length, 4), middle + 5], 3, fill=bar
        )
    pen.text((at["share of attention"] + reach + 56, middle), _tenths(one.share), ink, small, anchor="rm")
    pen.text((at["variation"], middle), f"{one.variation:.2f}", ink, small, anchor="rm")
    pen.text((at["kind"], middle), "head noun" if word.is_head else str(word.kind), ink, small, anchor="lm")
    if dropped is None:
        pen.text((at["in the map"], middle), "✓", POSITIVE, font(15), anchor="lm")
    else:
        pen.text((at["in the map"], middle), "✗", _FAINT, font(15), anchor="lm")
    lines = wrap(
        f"weight {one.weight:.2f}" if dropped is None else dropped.why, small, INNER - at["in the map"] - 20, 2
    )
    for number, line in enumerate(lines):
        shift = 17 * (number - (len(lines) - 1) / 2)
        pen.text((at["in the map"] + 20, middle + shift), line, ink, small, anchor="lm")


def _shown(rows: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """The lines of the word table, in order, and those without room: first dropped ones with the least attention."""
    if len(rows) <= _ROWS:
        return list(rows), []
    ranked = sorted(range(len(rows)), key=lambda i: (rows[i].first.dropped is not None, -rows[i].share))
    chosen = set(ranked[: _ROWS - 1])
    split = [[one for i, one in enumerate(rows) if (i in chosen) == inside] for inside in (True, False)]
    return split[0], split[1]


def scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as it fits into a width and a height."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def paste(part: Image.Image, shown: Image.Image, at: tuple[int, int]) -> None:
    """Paste a picture at (x, y), with a thin line around it."""
    part.paste(shown, at)
    box = [at[0] - 1, at[1] - 1, at[0] + shown.width, at[1] + shown.height]
    ImageDraw.Draw(part).rectangle(box, outline=RULE)


def tint(share: float, most: float) -> Colour:
    """The colour of a word by its share, against the largest share."""
    return _mix(_TINT, 0.05 + 0.45 * (share / most if most > 0 else 0.0))


def _mix(colour: Colour, strength: float) -> Colour:
    """A colour on white paper."""
    red, green, blue = (round(255 + (value - 255) * strength) for value in colour)
    return red, green, blue
