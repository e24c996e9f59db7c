"""The sheet that an explanation is drawn on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import LAST, WORDS, made_maps
from PIL import Image, ImageDraw

pytest.importorskip("torch")
from grounding.explanation import Explanation, rule_in_words, trace_candidates
from grounding.map_trace import trace_map
from grounding.methods import load_method
from grounding.segmenters.base import MaskCandidates
from grounding.segmenters.mask_selection import MaskRule
from grounding.types import PointPrompts, Word, WordKind
from grounding.viz_explanation import WIDTH, explanation_sheet


def made(size=(120, 80), words=WORDS, expression="the red star left", count=3, method="diffusion", box=None):
    chosen, rule = load_method(method), MaskRule()
    trace = trace_map(chosen, made_maps(size=size, words=words))
    masks = np.zeros((count, size[1], size[0]), bool)
    masks[:, : size[1] // 2 + 1, : size[0] // 2 + 1] = True
    found = MaskCandidates(masks, np.linspace(0.5, 0.9, count, dtype=np.float32), np.zeros((count, 4, 4), np.float32))
    points = PointPrompts(np.array([[1, 1]], np.float32), np.array([1]), np.ones(1, np.float32), box)
    scored = trace_candidates(found, trace.map, rule)
    return Explanation(expression, "made", method, trace, points, rule_in_words(rule), scored)


@pytest.fixture
def said(monkeypatch):
    """Every text that is drawn."""
    texts: list[str] = []
    plain = ImageDraw.ImageDraw.text

    def text(self, xy, words, *args, **kwargs):
        texts.append(words)
        return plain(self, xy, words, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (2, 2), (3, 700), (700, 3)])
def test_any_picture_fits(size):
    sheet = explanation_sheet(Image.new("RGB", size, (90, 120, 60)), made(size))
    assert sheet.mode == "RGB"
    assert sheet.width == WIDTH
    assert 700 < sheet.height < 2600
    assert (np.asarray(sheet)[:, [0, -1]] == 255).all()  # nothing runs over the margins


@pytest.mark.parametrize("count", [1, 3, 6])
def test_everything_is_named(said, count):
    shown = made(count=count, box=(0, 0, 9, 9))
    explanation_sheet(Image.new("RGB", (120, 80)), shown, ("a tenth of the picture is not seen",))
    for stage in shown.trace.stages:
        assert any(stage.report.stage in text for text in said)
    assert {"the", "red", "star", "left", "stop word", "last token", "head noun"} <= set(said)
    assert {f"candidate {number}" + ", chosen" * (number == count) for number in range(1, count + 1)} <= set(said)
    assert "1 point on the object, and a box" in said
    assert "a tenth of the picture is not seen" in said
    assert any(text == f"{shown.trace.words[2].share:.1%}" for text in said)


def test_a_dropped_word_is_struck_through():
    picture = Image.new("RGB", (120, 80))
    shown = made()
    kept = replace(shown, trace=replace(shown.trace, words=tuple(replace(w, dropped=None) for w in shown.trace.words)))
    struck, plain = (np.asarray(explanation_sheet(picture, one)).astype(int) for one in (shown, kept))
    assert struck.shape == plain.shape
    heading = np.abs(struck - plain)[44:90].sum(axis=(0, 2))
    assert heading[44:100].any()  # "the"
    assert not heading[120:240].any()  # "red" and "star" are kept in both


def test_pads_share_a_line_and_the_table_does_not_grow_with_the_text(said):
    pads = tuple(replace(LAST, text="<pad>", positions=(100 + i,)) for i in range(30))
    explanation_sheet(Image.new("RGB", (120, 80)), made(words=(*WORDS, *pads)))
    assert "<pad> × 30" in said
    many = [Word(f"w{i}", (4 * i, 4 * i + 2 + (i > 9)), (i,), WordKind.CONTENT) for i in range(40)]
    text = " ".join(word.text.ljust(3) for word in many)
    sheet = explanation_sheet(Image.new("RGB", (120, 80)), made(words=tuple(many), expression=text))
    assert any(line.startswith("and 27 more words with") for line in said)
    assert sheet.height < 2600


def test_magnets_stand_behind_the_expression(said):
    magnets = (Word("▁sky", (0, 0), (99,), WordKind.MAGNET), Word("</s>", (0, 0), (100,), WordKind.MAGNET))
    explanation_sheet(Image.new("RGB", (120, 80)), made(words=(*WORDS, *magnets)))
    assert said.count("  + ") == 1
    assert said.index("left") < said.index("sky") < said.index("</s>")
    assert said.count("sky") == 2  # behind the expression and in the table
    assert said.count("</s>") == 1  # in the table


def test_a_word_whose_letters_the_expression_does_not_have_there_is_in_the_table_alone(said):
    odd = (replace(WORDS[0], text="il"), *WORDS[1:], replace(WORDS[3], span=(90, 94), text="right"))
    explanation_sheet(Image.new("RGB", (120, 80)), made(words=odd))
    assert said.count("il") == said.count("right") == 1
    assert "the " in said  # what no word covers is drawn plain


def test_an_expression_of_several_lines_stands_on_one(said):
    explanation_sheet(Image.new("RGB", (120, 80)), made(expression="the\nred\u2029star\x85left\x1c"))
    assert not any(end in text for text in said for end in "\n\u2029\x85\x1c")


def test_a_small_share_is_not_called_nothing(said):
    shown = made()
    words = tuple(
        replace(one, share=share) for one, share in zip(shown.trace.words, (0, 0.0002, 0.5, 0.4, 0.0998), strict=True)
    )
    explanation_sheet(Image.new("RGB", (120, 80)), replace(shown, trace=replace(shown.trace, words=words)))
    assert [text for text in said if text.endswith("%")][:4] == ["0.0%", "<0.1%", "50%", "40%"]
    assert said.count("<0.1%") == 2
