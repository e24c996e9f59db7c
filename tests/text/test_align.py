from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.align import align
from grounding.text.tiny import byte_tokenizer
from grounding.text.words import split_words


@cache
def tokenizer() -> Any:
    return byte_tokenizer(("<unk>", "<s>", "</s>", "<pad>"), bos="<s>", eos="</s>", pad="<pad>")


@pytest.mark.parametrize(
    ("words", "tokens", "expected"),
    [
        ([(0, 3), (4, 7)], [(0, 3), (3, 7)], [(0,), (1,)]),  # a token with its leading blank
        ([(0, 8)], [(0, 0), (0, 3), (3, 6), (6, 8)], [(1, 2, 3)]),  # start token, then several pieces
        ([(0, 1), (2, 3)], [(0, 1), (0, 1), (1, 2), (2, 3)], [(0, 1), (3,)]),  # bytes of one letter share a span
        ([(0, 3), (4, 5)], [(0, 5)], [(0,), ()]),  # one token over two words goes to the longer
        ([(0, 2)], [(2, 4)], [()]),
        ([], [(0, 4)], []),
    ],
)
def test_tokens_go_to_the_word_they_write_most_of(words: Any, tokens: Any, expected: Any) -> None:
    assert align(words, tokens) == tuple(expected)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_with_a_real_tokenizer_tokens_cover_their_words_and_nothing_is_shared(text: str) -> None:
    words = split_words(text)
    offsets = tokenizer()(text, return_offsets_mapping=True)["offset_mapping"]
    placed = align([word.span for word in words], offsets)
    assert len(placed) == len(words)
    flat = [index for indices in placed for index in indices]
    assert flat == sorted(set(flat))  # in order, and no token belongs to two words
    for word, indices in zip(words, placed, strict=True):
        covered = {i for index in indices for i in range(*offsets[index])}
        assert set(range(*word.span)) <= covered


@given(st.data())
def test_any_tokens_are_handed_out_at_most_once(data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=10, unique=True).map(sorted))
    words = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    edges = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=12).map(sorted))
    tokens = list(pairwise(edges))
    placed = align(words, tokens)
    flat = [index for indices in placed for index in indices]
    assert len(flat) == len(set(flat))
    for word, indices in zip(words, placed, strict=True):
        for index in indices:
            assert tokens[index][0] < word[1]
            assert word[0] < tokens[index][1]
