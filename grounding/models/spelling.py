"""Generated token ids as text: where a text ends, and which characters each token writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grounding.text.align import Span


def end_tokens(model: Any) -> frozenset[int]:
    """The ids that end a text of a transformers model; empty where its generation config names none.

    A language model within that generates by itself, as BLIP-2's does, may name others.
    """
    configs = (getattr(one, "generation_config", None) for one in (model, getattr(model, "language_model", None)))
    ends = [config.eos_token_id for config in configs if config is not None]
    return frozenset(
        id_ for end in ends for id_ in (end if isinstance(end, list | tuple) else (end,)) if id_ is not None
    )


def end_of_text(tokens: Sequence[int], ends: frozenset[int]) -> int | None:
    """Index of the first token that ends the text; None where the text is not finished."""
    return next((index for index, token in enumerate(tokens) if token in ends), None)


def until_end(model: Any, tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first end token."""
    return tokens[: end_of_text(tokens, end_tokens(model))]


def spell(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, tuple[Span, ...]]:
    """Decode tokens, and find the characters that each of them writes.

    Args:
        tokenizer: the tokenizer that the tokens belong to.
        tokens: token ids.

    Returns:
        (text without special tokens, one (start, end) per token). All bytes of one letter have the letter's span; a
        token that writes nothing has an empty one.
    """

    def decoded(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = decoded(tokens)
    special = set(tokenizer.all_special_ids)
    ends = [0]
    for count in range(1, len(tokens) + 1):
        part = decoded(tokens[:count])
        # A letter whose bytes are not complete yet is spelled as a replacement character, which the text does not have.
        ends.append(
            next((i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b), min(len(part), len(text)))
        )
    spans = []
    for index, token in enumerate(tokens):
        start, end = ends[index], ends[index + 1]
        spans.append((start, start) if token in special else (start, max(end, min(start + 1, len(text)))))
    return text, tuple(spans)
