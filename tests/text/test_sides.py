from __future__ import annotations

import pytest

from grounding.text.sides import sides
from grounding.text.words import split_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the star on the left", ("left",)),
        ("the leftmost red star", ("left",)),
        ("Rightmost star", ("right",)),
        ("star at the bottom", ("bottom",)),
        ("the top left window", ("top", "left")),
        ("the man in the middle", ("middle",)),
        ("the star left of the square", ()),
        ("the star to the left of the square on the right", ()),
        ("cup on the left side of the picture", ("left",)),
        ("the bird in the upper right corner of the image", ("top", "right")),
        ("the left star above the square at the bottom", ("left",)),
        ("the book on top of the shelf", ()),
        ("third person from the left", ()),
        ("the red star", ()),
    ],
)
def test_sides_of_the_picture_are_told_from_relations(text, expected):
    assert sides(split_words(text)) == expected
