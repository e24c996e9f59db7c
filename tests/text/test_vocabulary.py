from __future__ import annotations

import pytest

from grounding.errors import ExpressionError
from grounding.text.vocabulary import refuse_unknown


class Tokenizer:
    """The three things that are read of a tokenizer."""

    unk_token_id = 2
    all_special_tokens = ("<pad>", "</s>", "<unk>")

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = [*self.all_special_tokens, *pieces]

    def get_vocab(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self._pieces)}


@pytest.mark.parametrize(
    "pieces",
    [["star", "red", ","], ["▁star", "▁red", "▁", ","], ["star</w>", "red</w>", ",</w>"], ["Ġstar", "Ġred", "Ġ", ","]],
    ids=["words", "sentencepiece", "clip", "byte-level"],
)
def test_known_words_are_named_without_the_tokenizers_marks(pieces: list[str]) -> None:
    with pytest.raises(
        ExpressionError, match=r"'zebra' is outside the vocabulary of it, which knows 2 words \(red, star\)"
    ):
        refuse_unknown("zebra", [2], Tokenizer(pieces), "it")


def test_a_word_without_a_token_is_refused_and_a_known_one_is_not() -> None:
    with pytest.raises(ExpressionError, match="no token of its own"):
        refuse_unknown("zebra", [], Tokenizer([]), "it")
    refuse_unknown("star", [3], Tokenizer(["star"]), "it")
