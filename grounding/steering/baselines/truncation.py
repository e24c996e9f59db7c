"""Truncation: the control that a method against object hallucination must beat at equal recall.

With greedy decoding a truncated text is a prefix of the full one, so the truncation curve of `grounding eval chair`
cuts existing captions. This step stops generation instead, at a length in tokens.
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
    """Limit the text to `tokens` new tokens.

    Attributes:
        tokens: the limit, >= 1.
        whole_words: end at the last whole word within the limit, for which one more token is generated. A text of one
            word is cut at the limit.

    Raises:
        MethodError: the limit is below 1.
    """

    tokens: int = 64
    whole_words: bool = False

    name: ClassVar[str] = "truncation"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise MethodError(f"truncation: tokens {self.tokens} were given, expected at least 1")

    @contextmanager
    def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
        """Limit `max_new_tokens` of the decoding, unless its own limit is lower; see `Intervention`."""
        limit = min(self.tokens, context.decoding.max_new_tokens)
        if not self.whole_words:
            yield GenerateOverrides(options={"max_new_tokens": limit})
            return
        tokenizer = context.vlm.tokenizer
        yield GenerateOverrides(options={"max_new_tokens": limit + 1}, finish=lambda text: cut(text, limit, tokenizer))


def cut(text: Generated, limit: int, tokenizer: Any) -> Generated:
    """Cut a text after its last whole word within `limit` tokens; a text within the limit is returned unchanged.

    Args:
        text: the generated text, with one token more than the limit.
        limit: in tokens.
        tokenizer: of the model.
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
        return False  # the last character's bytes are incomplete
    after = longer[len(before) :][:1]
    return not (before[-1:].isalnum() and after.isalnum())
