"""Saying less: the control that every method against invented objects must beat at equal recall.

A text cut while it is generated is the beginning of the uncut one, so with greedy decoding one run without a limit
serves every length: the truncation curve of `grounding eval chair` cuts captions that exist. This step is for runs that
should not pay for what is thrown away, and for lengths in tokens instead of words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from grounding.errors import MethodError
from grounding.steering.base import GenerateOverrides, GenerationContext
from grounding.steering.decoding import Generated


@dataclass(frozen=True)
class Truncation:
    """At most `tokens` new tokens.

    Attributes:
        tokens: the longest text.
        whole_words: end at the last whole word within the limit; one more token is generated to know where it ends. A
            text that is all one word is cut at the limit.
    """

    tokens: int = 64
    whole_words: bool = False

    name: ClassVar[str] = "truncation"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise MethodError(f"truncation: tokens {self.tokens} were given, expected at least 1")

    @contextmanager
    def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
        """See `Intervention`; a decoding that asks for fewer tokens keeps its limit."""
        limit = min(self.tokens, context.decoding.max_new_tokens)
        if not self.whole_words:
            yield GenerateOverrides(options={"max_new_tokens": limit})
            return
        tokenizer = context.vlm.tokenizer
        yield GenerateOverrides(options={"max_new_tokens": limit + 1}, finish=lambda text: cut(text, limit, tokenizer))


def cut(text: Generated, limit: int, tokenizer: Any) -> Generated:
    """The text up to its last whole word within `limit` tokens, if it is longer.

    Args:
        text: as generated, with the token after the limit.
        limit: in tokens.
        tokenizer: the model's.
    """
    if len(text.token_ids) <= limit:
        return text
    starts = [tokenizer.decode(text.token_ids[:end], skip_special_tokens=True) for end in range(limit + 2)]
    ends = [end for end in range(1, limit + 1) if _between_words(starts[end], starts[end + 1])]
    kept = max(ends, default=limit)
    return replace(text, text=starts[kept].strip(), token_ids=text.token_ids[:kept], finished=False)


def _between_words(before: str, longer: str) -> bool:
    """Whether `before` ends where a word of `longer` does."""
    if not longer.startswith(before) or "\ufffd" in before[-1:]:
        return False  # a character is not complete yet
    after = longer[len(before) :][:1]
    return not (before[-1:].isalnum() and after.isalnum())
