"""Pack several questions about one picture into one sequence, masked from each other.

The picture and the opening tokens are the shared prefix. Every question attends to the prefix and to itself, at the
positions that it has in a single conversation, so a packed sequence has the same loss as the single conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grounding.scenes import language
from grounding.scenes.drawing import SceneObject
from grounding.scenes.language import CELLS
from grounding.starter.model import SPECIAL_TOKENS

OPENING = "user :"  # the chat template's text before the image
CLOSING = "assistant :"  # its text between the question and the answer
LENGTH = 400
NO_LABEL = -100
_PAD, _UNKNOWN, _END = (SPECIAL_TOKENS.index(token) for token in ("<pad>", "<unk>", "</s>"))
_CAPTION_SHARE, _LIST_SHARE, _LOCATED = 0.2, 0.1, 10


@dataclass(frozen=True)
class Packed:
    """B packed sequences of N positions; each begins with the prefix, which is the opening and the picture.

    Attributes:
        tokens: int64 [B, N], padding at the picture's positions.
        positions: int64 [B, N], the position ids; each question is counted from the end of the prefix.
        block: int64 [B, N], 0 for the prefix, 1, 2, ... for the questions, -1 for padding.
        labels: int64 [B, N], the next token if it belongs to an answer and is in the vocabulary, else `NO_LABEL`.
    """

    tokens: Tensor
    positions: Tensor
    block: Tensor
    labels: Tensor

    @property
    def mask(self) -> Tensor:
        """Additive attention mask, float [B, 1, N, N]: causal, and each question is masked from the others."""
        length = self.tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = self.block[:, :, None] == self.block[:, None, :]
        visible = causal & (same | (self.block[:, None, :] == 0))
        return torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min).unsqueeze(1)


def dialogue(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw (question, answer) pairs about one scene: all objects with their cells, sometimes a caption, then a mix."""
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
    return [(language.PLACE, language.placed_caption(objects, rng)), *pairs]


def pack(
    dialogues: Sequence[Sequence[tuple[str, str]]],
    encode: Callable[[str], list[int]],
    cells: int = CELLS * CELLS,
    length: int = LENGTH,
) -> Packed:
    """Pack one dialogue per row; pairs that do not fit are left out.

    Args:
        dialogues: per row (question, answer) pairs.
        encode: text to token ids, without special tokens.
        cells: number of image tokens.
        length: N, positions of a row.
    """
    shape = (len(dialogues), length)
    tokens, labels = torch.full(shape, _PAD), torch.full(shape, NO_LABEL)
    block, positions = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    opening = encode(OPENING)
    prefix = len(opening) + cells
    for row, pairs in enumerate(dialogues):
        tokens[row, : len(opening)] = torch.tensor(opening)
        positions[row, :prefix] = torch.arange(prefix)
        block[row, :prefix] = 0
        at = prefix
        for number, (question, answer) in enumerate(pairs, start=1):
            asked, answered = encode(f"{question} {CLOSING}"), [*encode(answer), _END]
            end = at + len(asked) + len(answered)
            if end > length:
                continue
            tokens[row, at:end] = torch.tensor([*asked, *answered])
            first = at + len(asked)
            labels[row, first - 1 : end - 1] = torch.tensor([NO_LABEL if t == _UNKNOWN else t for t in answered])
            positions[row, at:end] = torch.arange(prefix, prefix + end - at)
            block[row, at:end] = number
            at = end
    return Packed(tokens, positions, block, labels)


def answer_loss(
    language_model: Any, projected: Tensor, packed: Packed, weight: Tensor | None = None
) -> tuple[Tensor, float]:
    """Run the language model on packed questions and score the answers.

    Args:
        language_model: with tied embeddings.
        projected: [B, cells, width], the projected image tokens.
        packed: questions, packed for the same number of cells.
        weight: [V], weight of each token in the loss; None is uniform.

    Returns:
        The weighted mean cross-entropy of the answers' tokens, and the accuracy on them.
    """
    opening = len(OPENING.split())
    embeddings = language_model.embed_tokens(packed.tokens)
    rest = embeddings[:, opening + projected.shape[1] :]
    hidden = language_model(
        inputs_embeds=torch.cat([embeddings[:, :opening], projected, rest], dim=1),
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    asked = packed.labels != NO_LABEL
    logits = hidden[asked] @ language_model.embed_tokens.weight.T
    truth = packed.labels[asked]
    return F.cross_entropy(logits, truth, weight), (logits.argmax(-1) == truth).float().mean().item()
