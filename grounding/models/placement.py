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
    """The n tokens of a prompt in which the processor has written out its P pictures.

    Attributes:
        ids: n token ids.
        spans: per token its (start, end) characters, counted from the start of the user's words; (0, 0) for tokens
            outside of them.
        pictures: per picture the indices of its tokens, ascending. A token that the tokenizer makes of a picture's
            first or last characters and of the prompt's text beside them belongs to the text.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    pictures: tuple[IntArray, ...]

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        rendered: Rendered,
        image_token: str,
        texts: Sequence[str],
        add_special_tokens: bool,
    ) -> Tokens:
        """Tokenize a rendered prompt with its pictures written out.

        Args:
            tokenizer: the processor's tokenizer.
            rendered: the prompt, with `image_token` once per picture.
            image_token: what stands for a picture in the prompt.
            texts: per picture what the processor writes in its place.
            add_special_tokens: whether the tokenizer adds its own first and last tokens.

        Raises:
            ModelError: a picture has no token of its own.
        """
        parts = rendered.text.split(image_token)
        pieces, begin, starts = [parts[0]], len(parts[0]), []
        for text, part in zip(texts, parts[1:], strict=True):
            starts.append(begin)
            pieces += [text, part]
            begin += len(text) + len(part)
        added = [len(text) - len(image_token) for text in texts]
        before = rendered.text[: rendered.span[0]].count(image_token)
        start, end = (at + sum(added[:before]) for at in rendered.span)
        encoded = tokenizer(
            "".join(pieces), return_offsets_mapping=True, add_special_tokens=add_special_tokens, truncation=False
        )
        offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        real = offsets[:, 0] < offsets[:, 1]
        pictures = tuple(
            np.flatnonzero(real & (offsets[:, 0] >= at) & (offsets[:, 1] <= at + len(text)))
            for at, text in zip(starts, texts, strict=True)
        )
        if any(len(own) == 0 for own in pictures):
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} makes no token of its own of a picture's text: expected its "
                "image token to be an added token"
            )
        spans = tuple((a - start, b - start) if a < end and b > start else (0, 0) for a, b in offsets.tolist())
        return cls(tuple(encoded["input_ids"]), spans, pictures)

    def place(self, words: Sequence[Word], padding: int) -> tuple[Word, ...]:
        """Give each word the positions of its tokens; none where the tokenizer writes it within another word's."""
        owned = align([word.span for word in words], self.spans)
        return tuple(
            replace(word, positions=tuple(padding + i for i in tokens))
            for word, tokens in zip(words, owned, strict=True)
        )

    def layout(
        self,
        padding: int,
        grids: Sequence[Sequence[ImageGrid]],
        image_sizes: Sequence[tuple[int, int]],
        has_expression: bool,
    ) -> TokenLayout:
        """The layout of the prompt.

        Args:
            padding: number of padding positions before the prompt.
            grids: per picture its grids. Its other tokens are separators.
            image_sizes: per picture (width, height) of the original in pixels.
            has_expression: whether the user's words are a referring expression.
        """
        spans: list[ImageGrid | TextSpan | Separator] = []
        for number, (own, tokens) in enumerate(zip(grids, self.pictures, strict=True)):
            cells = np.concatenate([np.empty(0, np.int64), *(grid.positions for grid in own)])
            spans += [*own, Separator(np.setdiff1d(padding + tokens, cells), number)]
        numbers = np.arange(len(self.ids))
        of_picture = np.isin(numbers, np.concatenate(self.pictures))
        of_expression = np.array([start < end for start, end in self.spans]) & has_expression
        last = max(int(tokens[-1]) for tokens in self.pictures)
        text = ~of_picture & ~of_expression
        spans += [
            TextSpan(padding + numbers[text & (numbers < last)], "system"),
            TextSpan(padding + numbers[of_expression], "expression"),
            TextSpan(padding + numbers[text & (numbers > last)], "instruction"),
        ]
        return TokenLayout(
            length=padding + len(self.ids),
            padding=padding,
            spans=tuple(span for span in spans if len(span.positions)),
            image_sizes=tuple(image_sizes),
        )
