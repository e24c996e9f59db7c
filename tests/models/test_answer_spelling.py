from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from grounding.models.spelling import end_tokens, spell
from grounding.text.align import align
from grounding.text.tiny import byte_tokenizer
from grounding.text.words import split_words


@cache
def tokenizer() -> Any:
    return byte_tokenizer(("<unk>", "<s>", "</s>", "<pad>"), bos=None, eos="</s>", pad="<pad>")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30))
def test_tokens_spell_the_text_they_came_from(text: str) -> None:
    tokens = tokenizer()(text)["input_ids"]
    spelled, spans = spell(tokenizer(), tokens)
    assert spelled == text
    assert {i for span in spans for i in range(*span)} == set(range(len(text)))
    for word, indices in zip(split_words(text), align([w.span for w in split_words(text)], spans), strict=True):
        assert tokenizer().decode([tokens[i] for i in indices]).strip() == word.text


@given(st.lists(st.integers(0, 259), max_size=12))
def test_any_tokens_have_ordered_spans_inside_their_text(tokens: list[int]) -> None:
    text, spans = spell(tokenizer(), tokens)
    assert len(spans) == len(tokens)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)


def test_a_text_ends_as_the_model_or_the_language_model_within_says() -> None:
    within = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 3]))
    for end, expected in ((None, {2, 3}), (7, {2, 3, 7})):
        whole = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=end), language_model=within)
        assert end_tokens(whole) == expected
    assert end_tokens(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))) == frozenset()


def test_special_tokens_write_nothing() -> None:
    tokens = tokenizer()(" dog")["input_ids"]
    assert spell(tokenizer(), [*tokens, tokenizer().eos_token_id]) == (" dog", ((0, 4), (4, 4)))
