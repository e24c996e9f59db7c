from __future__ import annotations

import pytest

from grounding.text.order import LAST, Order, order_of
from grounding.text.parse import parse


@pytest.mark.parametrize(
    ("expression", "order"),
    [
        ("the cup", Order()),
        ("the cup on the left", Order(("left",))),
        ("the leftmost larger cup", Order(("left",), "large")),
        ("the smallest dog", Order(size="small")),
        ("the second cup from the left", Order(ordinal=2, counted_from="left")),
        ("third person from right", Order(ordinal=3, counted_from="right")),
        ("the 2nd car", Order(ordinal=2, counted_from="left")),
        ("the last cup from the top", Order(ordinal=LAST, counted_from="top")),
        ("the man in the second row", Order()),
        ("the cup beside the larger plate", Order()),
        ("the second largest dog", Order(size="large", ordinal=2)),
    ],
)
def test_what_an_expression_says_about_which_one(expression, order):
    assert order_of(parse(expression)) == order


def test_it_is_true_and_in_words_where_it_says_something():
    assert not Order()
    assert str(Order(("left",), "large", 2, "top")) == "left, number 2 from the top, larger"
    assert str(Order(size="small", ordinal=LAST)) == "last, smaller"
