"""Several questions about one picture in one sequence, none of which sees the others.

The picture and its opening tokens are read once; every question attends to them and to itself, at the positions it
would have if it were asked alone. One packed sequence therefore trains exactly what as many single conversations
would, for a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grounding.starter import language
from grounding.starter.language import CELLS
from grounding.starter.model import SPECIAL_TOKENS
from grounding.starter.scenes import SceneObject

OPENING = "user :"  # what the chat template writes before the image
CLOSING = "assistant :"  # and between the question and the answer
PREFIX = 2 + CELLS * CELLS
LENGTH = 400
NO_LABEL = -100
_PAD, _END = SPECIAL_TOKENS.index("<pad>"), SPECIAL_TOKENS.index("</s>")
_CAPTION_SHARE, _LIST_SHARE, _PLACES_SHARE, _LOCATED = 0.2, 0.1, 1.0, 10


@dataclass(frozen=True)
class Packed:
    """B packed sequences of `LENGTH` positions; the first `PREFIX` stand for the opening and the picture.

    Attributes:
        tokens: int64 [B, LENGTH], padding under the picture.
        positions: int64 [B, LENGTH], each question counted from the end of the prefix.
        block: int64 [B, LENGTH], 0 for the prefix, 1, 2, ... for the questions, -1 for padding.
        labels: int64 [B, LENGTH], the next token where it belongs to an answer, else `NO_LABEL`.
    """

    tokens: Tensor
    positions: Tensor
    block: Tensor
    labels: Tensor

    @property
    def mask(self) -> Tensor:
        """float [B, 1, LENGTH, LENGTH] added to the attention logits: causal, and blind to other questions."""
        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        same = self.block[:, :, None] == self.block[:, None, :]
        visible = causal & (same | (self.block[:, None, :] == 0))
        return torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min).unsqueeze(1)


def dialogue(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs about one scene, in random order: mostly places, then the rest, sometimes a caption."""
    located = language.referring_expressions(objects, rng)
    chosen = rng.permutation(len(located))[:_LOCATED]
    pairs = [
        (language.LOCATE.format(expression=located[i].text), language.locate_answer(objects[located[i].target_index]))
        for i in chosen
    ]
    asked = (*language.questions(objects, rng), *language.questions(objects, rng))
    pairs += [(question.text, question.answer) for question in asked]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    if rng.random() < _CAPTION_SHARE:
        pairs.insert(0, (language.DESCRIBE, language.caption(objects, attributes=True)))
    if rng.random() < _LIST_SHARE:
        pairs.insert(0, (language.ENUMERATE, language.caption(objects, attributes=False)))
    if rng.random() < _PLACES_SHARE:
        pairs.insert(0, (language.PLACE, language.placed_caption(objects, rng)))
    return pairs


def pack(dialogues: Sequence[Sequence[tuple[str, str]]], encode: Callable[[str], list[int]]) -> Packed:
    """Packs one dialogue per row; pairs that no longer fit are left out.

    Args:
        dialogues: per row (question, answer) pairs.
        encode: text to token ids, without special tokens.
    """
    shape = (len(dialogues), LENGTH)
    tokens, labels = torch.full(shape, _PAD), torch.full(shape, NO_LABEL)
    block, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    opening = encode(OPENING)
    for row, pairs in enumerate(dialogues):
        tokens[row, : len(opening)] = torch.tensor(opening)
        positions[row, :PREFIX] = torch.arange(PREFIX)
        block[row, :PREFIX] = 0
        at = PREFIX
        for number, (question, answer) in enumerate(pairs, start=1):
            asked, answered = encode(f"{question} {CLOSING}"), [*encode(answer), _END]
            end = at + len(asked) + len(answered)
            if end > LENGTH:
                continue
            tokens[row, at:end] = torch.tensor([*asked, *answered])
            first = at + len(asked)
            labels[row, first - 1 : end - 1] = torch.tensor(answered)
            positions[row, at:end] = torch.arange(PREFIX, PREFIX + end - at)
            block[row, at:end] = number
            at = end
    return Packed(tokens, positions, block, labels)
