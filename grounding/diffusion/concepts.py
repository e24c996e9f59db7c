"""Run concepts beside a prompt: tokens that read the image and each other, and that nothing else reads.

ConceptAttention (Helbling et al., ICML 2025, arXiv 2502.04320) gives every double block a third stream, with the
weights of the text stream. Tokens appended to the text, whose keys are hidden from image and prompt and from which the
prompt's keys are hidden, are that stream, because nothing but attention mixes tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Subscriber
from grounding.diffusion.magnets import PromptMagnets
from grounding.diffusion.prompts import Encoded, TextPrompt
from grounding.diffusion.sequence import Placement
from grounding.errors import MethodError
from grounding.types import Word, WordKind


def with_concepts(
    prompt: TextPrompt, encoded: Encoded, magnets: PromptMagnets, background: Sequence[str], placement: Placement
) -> tuple[Encoded, Placement, tuple[Word, ...]]:
    """Put the content words of a prompt, or all words of one without any, beside it, and the background's concepts.

    Args:
        prompt: the prompt and its words.
        encoded: the prompt as the transformer takes it.
        magnets: encode words alone.
        background: further concepts; those outside a closed vocabulary are left out.
        placement: positions of cells and of the prompt's text.

    Returns:
        (prompt, concepts and padding; positions of cells and of the concepts alone; a word per concept, a magnet where
        it is of the background).

    Raises:
        MethodError: no word of the background is in the encoder's vocabulary.
    """
    own = [word for word in prompt.words if word.kind is WordKind.CONTENT] or list(prompt.words)
    words = [replace(w, span=(w.span[0] - prompt.start, w.span[1] - prompt.start)) for w in own]
    known = [text for text in background if magnets.knows(text)]
    if background and not known:
        raise MethodError(
            f"none of the background concepts {', '.join(background)} is in the model's vocabulary: name others in the "
            "method's readout"
        )
    words += [Word(text, (0, 0), (), WordKind.MAGNET) for text in known]
    joined, first = magnets.join(encoded, [magnets.first_token(word.text) for word in words])
    placed = replace(placement, tokens=tuple(range(first, first + len(words))))
    at = placed.word_positions
    return joined, placed, tuple(replace(w, positions=(p,)) for w, p in zip(words, at, strict=True))


class ConceptStream(Subscriber):
    """Hide concepts from image and prompt, and the prompt from concepts, in every call.

    Args:
        placement: positions of the concepts.
        length: positions of the whole text, prompt, concepts and padding.
    """

    def __init__(self, placement: Placement, length: int) -> None:
        self._concepts = list(placement.text)
        behind = range(placement.text_start, placement.text_start + length)
        self._hidden = [position for position in behind if position not in placement.text]

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """Add the edit."""
        return call.changed(edits=(*call.edits, RowEdit(0, self._hide)))

    def _hide(self, call: AttentionCall, rows: torch.Tensor) -> AttentionEdit:
        lowest = torch.finfo(torch.float32).min
        bias = torch.zeros(2, call.key_count, device=rows.device)  # for image and prompt, for concepts
        bias[0, self._concepts] = lowest
        bias[1, self._hidden] = lowest
        concept = torch.isin(rows, torch.tensor(self._concepts, device=rows.device)).long()
        return AttentionEdit(bias[concept][None, None])
