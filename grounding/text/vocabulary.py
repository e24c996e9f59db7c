"""Refuse words that a model's tokenizer cannot take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from grounding.errors import ExpressionError

SHOWN_VOCABULARY = 200  # a closed vocabulary up to this size is printed in full when a word is outside it
_SHOWN_CLOSE = 5  # of a larger one, the number of words of similar spelling that are printed


def words_among(tokens: Iterable[str]) -> list[str]:
    """The words of a word-level vocabulary, sorted; numbers and punctuation marks are none.

    Marks that tokenizers set where a word begins or ends (SentencePiece, byte-level, CLIP) are taken off.
    """
    return sorted({word for token in tokens if (word := token.lstrip("▁Ġ").removesuffix("</w>")).isalpha()})


def refuse_unknown(word: str, token_ids: Sequence[int], tokenizer: Any, model: str) -> None:
    """Refuse a word without tokens, or outside a closed vocabulary.

    Args:
        word: the word as written.
        token_ids: its tokens.
        tokenizer: the model's tokenizer.
        model: the model's name, for the message.

    Raises:
        ExpressionError: the word has no token of its own, or one of its tokens is the unknown token.
    """
    if not token_ids:
        raise ExpressionError(
            f"the tokenizer of {model} gives the word {word!r} no token of its own: write it apart "
            "from its neighbours with blanks"
        )
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in token_ids:
        return
    special = set(tokenizer.all_special_tokens)
    known = words_among(token for token in tokenizer.get_vocab() if token not in special)
    raise ExpressionError(
        f"the word {word!r} is outside the vocabulary of {model}, which knows {len(known):,} words"
        f"{_some_of(known, word)}: use known words, or for photos and free text load a hub model, for example "
        "--model llava-hf/llava-1.5-7b-hf"
    )


def refuse_broken_text(text: str) -> None:
    """Refuse text with half of a surrogate pair, which no tokenizer can encode.

    Raises:
        ExpressionError: there is such a half.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        shown = text[:60].encode("ascii", "backslashreplace").decode()
        raise ExpressionError(
            f"the text '{shown}' holds half of a letter (a lone surrogate): write it as whole UTF-8 text"
        )


def refuse_control_tokens(text: str, image_token: str, tokenizer: Any, model: str) -> None:
    """Refuse text that contains a control token.

    Args:
        text: an expression or a question.
        image_token: the text of one image token.
        tokenizer: the model's tokenizer.
        model: the model's name, for the message.

    Raises:
        ExpressionError: the text contains the image token or a special token.
    """
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    for token in sorted({image_token, *tokenizer.all_special_tokens, *added}):
        if token in text:
            raise ExpressionError(f"the expression holds {token!r}, a control token of {model}: leave it out")


def _some_of(known: Sequence[str], word: str) -> str:
    """The known words in brackets, or those of similar spelling where they are more than `SHOWN_VOCABULARY`."""
    if len(known) <= SHOWN_VOCABULARY:
        return f" ({', '.join(known)})"
    close = get_close_matches(word.lower(), known, n=_SHOWN_CLOSE, cutoff=0.5)
    return f", {', '.join(close)} among them" if close else ", none of them spelt like it"
