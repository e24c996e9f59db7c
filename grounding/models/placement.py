"""Find pictures and words among the tokens that a processor made of a rendered prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grounding.errors import ModelError
from grounding.layout import ImageGrid, Separator, TextSpan, TokenLayout
from grounding.models.chat import Rendered
from grounding.text.align import Span, align
from grounding.types import IntArray, Word


@dataclass(frozen=True)
class Tokens:
    """The N' tokens of a rendered prompt, before the processor expands its image token.

    Attributes:
        ids: N' token ids.
        spans: per token its (start, end) characters, counted from the start of the user's words; (0, 0) for tokens
            outside of them.
        image: index of the image token.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    image: int

    @classmethod
    def of(cls, tokenizer: Any, rendered: Rendered, image_token_id: int, add_special_tokens: bool) -> Tokens:
        """Tokenize a rendered prompt.

        Raises:
            ModelError: the tokenizer does not keep the image token as one token.
        """
        encoded = tokenizer(
            rendered.text, return_offsets_mapping=True, add_special_tokens=add_special_tokens, truncation=False
        )
        ids = tuple(encoded["input_ids"])
        if ids.count(image_token_id) != 1:
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} makes {ids.count(image_token_id)} image tokens of a prompt "
                "with one picture: expected its image token to be an added token"
            )
        start, end = rendered.span
        spans = tuple((a - start, b - start) if a < end and b > start else (0, 0) for a, b in encoded["offset_mapping"])
        return cls(ids, spans, ids.index(image_token_id))

    def expanded(self, picture: Sequence[int]) -> list[int]:
        """All ids, with the picture's in place of the image token."""
        return [*self.ids[: self.image], *picture, *self.ids[self.image + 1 :]]

    def positions(self, padding: int, picture_tokens: int) -> IntArray:
        """(N',) where each token stands in the padded sequence; the image token's is its picture's first position."""
        positions = padding + np.arange(len(self.ids), dtype=np.int64)
        positions[self.image + 1 :] += picture_tokens - 1
        return positions

    def place(self, words: Sequence[Word], positions: IntArray) -> tuple[Word, ...]:
        """Give each word the positions of its tokens; none where the tokenizer writes it within another word's."""
        owned = align([word.span for word in words], self.spans)
        return tuple(
            replace(word, positions=tuple(int(positions[i]) for i in tokens))
            for word, tokens in zip(words, owned, strict=True)
        )

    def layout(
        self,
        padding: int,
        picture_tokens: int,
        grids: Sequence[ImageGrid],
        image_size: tuple[int, int],
        has_expression: bool,
    ) -> TokenLayout:
        """The layout of a prompt with one picture.

        Args:
            padding: number of padding positions before the prompt.
            picture_tokens: how many tokens the processor put in place of the image token; those that are no cell of a
                grid are separators.
            grids: the picture's grids.
            image_size: (width, height) of the original picture in pixels.
            has_expression: whether the user's words are a referring expression.
        """
        positions = self.positions(padding, picture_tokens)
        picture = positions[self.image] + np.arange(picture_tokens, dtype=np.int64)
        separators = np.setdiff1d(picture, np.concatenate([grid.positions for grid in grids]))
        numbers = np.arange(len(self.ids))
        of_expression = np.array([start < end for start, end in self.spans]) & has_expression
        after = (numbers > self.image) & ~of_expression
        before = (numbers < self.image) & ~of_expression
        text = (
            TextSpan(positions[before], "system"),
            TextSpan(positions[of_expression], "expression"),
            TextSpan(positions[after], "instruction"),
        )
        spans: tuple[ImageGrid | TextSpan | Separator, ...] = (*grids, Separator(separators), *text)
        return TokenLayout(
            length=int(positions[-1]) + 1,
            padding=padding,
            spans=tuple(span for span in spans if len(span.positions)),
            image_sizes=(image_size,),
        )
