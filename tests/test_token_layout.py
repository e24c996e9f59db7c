from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.layout import ImageGrid, Separator, TextSpan, TokenLayout

BOX = (0.0, 0.0, 10.0, 10.0)


@st.composite
def layouts(draw) -> tuple[TokenLayout, list[str]]:
    """A layout and, per position, the kind of its token: padding, cell, separator or the role of a text.

    Text and pictures alternate. A picture has tiles or frames, a separator after each row of cells and one after each
    tile; the grids of a picture need not be neighbours in the list of spans.
    """
    kinds = ["padding"] * draw(st.integers(0, 4))
    padding = len(kinds)
    spans: list[ImageGrid | TextSpan | Separator] = []

    def text(role: str, least: int = 0) -> None:
        positions = np.arange(len(kinds), len(kinds) + draw(st.integers(least, 4)))
        kinds.extend([role] * len(positions))
        spans.append(TextSpan(positions, role))

    pictures = draw(st.integers(0, 3))
    text("system")
    for picture in range(pictures):
        of_clip, separators = draw(st.booleans()), []
        for part in range(draw(st.integers(1, 3))):
            height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            cells = []
            for _ in range(height):
                cells.extend(range(len(kinds), len(kinds) + width))
                kinds.extend(["cell"] * width)
                if draw(st.booleans()):
                    separators.append(len(kinds))
                    kinds.append("separator")
            spans.append(ImageGrid(np.array(cells), (height, width), BOX, picture, part if of_clip else None))
        if separators:
            spans.append(Separator(np.array(separators), picture))
        if picture < pictures - 1:
            text("system")
    text("instruction")
    text("expression")
    text("instruction", 1)
    order = draw(st.permutations(spans))
    return TokenLayout(len(kinds), padding, tuple(order), ((10, 10),) * pictures), kinds


def at(kinds: list[str], *wanted: str) -> list[int]:
    return [index for index, kind in enumerate(kinds) if kind in wanted]


@given(layouts())
def test_every_part_is_what_its_tokens_are(made) -> None:
    layout, kinds = made
    assert layout.cells.tolist() == at(kinds, "cell")
    assert layout.image.tolist() == at(kinds, "cell", "separator")
    assert layout.system.tolist() == (at(kinds, "system") if layout.grids else [])
    assert layout.expression.tolist() == at(kinds, "expression")
    last = max(layout.image.tolist(), default=-1)
    assert layout.instruction.tolist() == [i for i in at(kinds, "system", "instruction", "expression") if i > last]
    assert layout.answer.size == 0


@given(layouts(), st.integers(0, 5))
def test_the_parts_cover_the_sequence_once_also_with_an_answer(made, length) -> None:
    layout, _ = made
    whole = layout.extended(length)
    parts = (whole.system, whole.image, whole.instruction, whole.answer)
    assert sorted(np.concatenate(parts).tolist()) == list(range(layout.padding, layout.length + length))
    assert whole.answer.tolist() == list(range(layout.length, layout.length + length))
    for name in ("image", "cells", "system", "instruction", "expression"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(layout, name))


@given(layouts())
def test_pictures_and_frames_are_kept_apart(made) -> None:
    layout, _ = made
    for picture in range(len(layout.image_sizes)):
        own = [grid for grid in layout.grids if grid.picture == picture]
        assert own
        frames = [grid.frame for grid in own]
        assert set(frames) == {None} or sorted(frames) == list(range(len(own)))
    assert sum(grid.shape[0] * grid.shape[1] for grid in layout.grids) == len(layout.cells)


@given(layouts(), st.data())
def test_a_position_with_two_meanings_or_outside_is_refused(made, data) -> None:
    layout, kinds = made
    taken = data.draw(st.sampled_from(at(kinds, *set(kinds) - {"padding"})))
    with pytest.raises(ValueError, match="two spans"):
        replace(layout, spans=(*layout.spans, TextSpan(np.array([taken]), "instruction")))
    outside = data.draw(st.sampled_from([*range(layout.padding), layout.length]))
    with pytest.raises(ValueError, match="positions must be in"):
        replace(layout, spans=(*layout.spans, TextSpan(np.array([outside]), "instruction")))


def test_spans_of_unknown_pictures_and_misplaced_answers_are_refused() -> None:
    grid = ImageGrid(np.arange(2), (1, 2), BOX, picture=1)
    with pytest.raises(ValueError, match="picture 1, but 1 sizes"):
        TokenLayout(2, 0, (grid,), ((10, 10),))
    with pytest.raises(ValueError, match="inside its prompt"):
        TokenLayout(2, 0, (TextSpan(np.array([0]), "answer"), TextSpan(np.array([1]), "instruction")))
    with pytest.raises(ValueError, match=r"padding must be in \[0, 2\]"):
        TokenLayout(2, 3, ())


def test_a_grid_needs_its_cells_and_a_box() -> None:
    with pytest.raises(ValueError, match="2x2 cells needs 4 positions"):
        ImageGrid(np.arange(3), (2, 2), BOX)
    with pytest.raises(ValueError, match="x0 < x1"):
        ImageGrid(np.arange(4), (2, 2), (5.0, 0.0, 5.0, 1.0))


def test_cells_of_cross_attention_are_keys_and_no_positions() -> None:
    token, first, second = Separator(np.array([2])), ImageGrid(np.array([1, 2]), (1, 2), BOX), Separator(np.array([0]))
    other = ImageGrid(np.array([4, 5]), (2, 1), BOX, picture=1)
    layout = TokenLayout(
        5,
        1,
        (TextSpan(np.array([1]), "system"), token, TextSpan(np.array([3, 4]), "expression")),
        ((10, 10), (10, 10)),
        (first, second, other),
    )
    assert layout.grids == (first, other)
    assert not len(layout.cells)
    assert layout.image.tolist() == [2]
    assert layout.keys.tolist() == [0, 1, 2, 4, 5]
    assert [layout.keys_of_picture(picture).tolist() for picture in (0, 1)] == [[0, 1, 2], [4, 5]]
    assert layout.extended(2).keys.tolist() == layout.keys.tolist()
    plain = replace(layout, cross=())
    assert plain.keys.tolist() == plain.keys_of_picture(0).tolist() == [2]
    with pytest.raises(ValueError, match="key 4 belongs to two spans"):
        replace(layout, cross=(*layout.cross, Separator(np.array([4]))))
    with pytest.raises(ValueError, match="a span is of picture 1, but 1 sizes are given"):
        replace(layout, image_sizes=((10, 10),))
