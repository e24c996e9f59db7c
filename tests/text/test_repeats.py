from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.repeats import repeat_start


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a cat is standing . a cat is standing . a dog .", "a cat is standing . "),
        ("A cat sits. The dog runs! a  CAT sits.", "A cat sits. The dog runs! "),
        ("a white and white and white and white and white", "a white and "),
        ("bus bus bus bus", "bus "),
    ],
)
def test_a_text_is_kept_up_to_its_first_repeat(text, kept):
    assert text[: repeat_start(text)] == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a man on a bench .",
        "Yes. Yes. No. Yes.",  # answers, not sentences
        "very very very good",
        "a picture of a picture of a picture of a cat",
        "a cat is standing . a cat is standing",  # not known to be the same sentence before it ends
        "a cat sits. a cat sits on a mat.",
    ],
)
def test_what_is_no_repeat(text):
    assert repeat_start(text) is None


WORDS = st.lists(st.sampled_from(["a", "b", "c", "."]), max_size=24)


@given(WORDS)
def test_what_is_kept_repeats_nothing(words):
    text = " ".join(words)
    start = repeat_start(text)
    assert start is None or repeat_start(text[:start]) is None


@given(WORDS)
def test_longer_texts_never_repeat_later(words):
    """A text that is stopped where it first repeats is cut where the finished text would have been."""
    starts = [repeat_start(" ".join(words[:count])) for count in range(len(words) + 1)]
    first = next((start for start in starts if start is not None), None)
    assert first is None or all(start is not None and start <= first for start in starts[starts.index(first) :])
