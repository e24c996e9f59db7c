"""Attention maps of every word of a finished text: one forward pass over picture, question and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from grounding.models.base import VLM
from grounding.models.maps import record_pass
from grounding.models.prepared import Prepared, last_word
from grounding.models.spelling import spell, until_end
from grounding.models.teacher_forcing import continued, control_tokens_hidden
from grounding.record_spec import RecordSpec
from grounding.text.align import align
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word, WordKind


@dataclass(frozen=True)
class AnswerWords:
    """A text and the attention maps of its words.

    Attributes:
        text: the text without special tokens.
        words: those that own a token, in order, with spans into the text.
        maps: per word its row as a head noun's, so that a method reads it whatever its kind, then the row of `<last>`:
            the token before the word, from which it was predicted.
    """

    text: str
    words: tuple[Word, ...]
    maps: tuple[AttentionMaps, ...]


def answer_words(vlm: VLM, prepared: Prepared, token_ids: Sequence[int], spec: RecordSpec) -> AnswerWords:
    """Record the words of a text; see `grounding.models.teacher_forcing.teacher_forced_maps` for the pass.

    Args:
        vlm: the model.
        prepared: the question, a batch of one.
        token_ids: of the text; those from the first end token on are ignored.
        spec: what to record. The `background_prompt` is not recorded here.

    Raises:
        BudgetError: the rows need more bytes than the spec allows.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    tokens = until_end(vlm.model, token_ids)
    text, spans = spell(vlm.tokenizer, tokens)
    owned = zip(split_words(text), align([word.span for word in split_words(text)], spans), strict=True)
    words = [replace(word, positions=tuple(prepared.length + t for t in at)) for word, at in owned if at]
    lead = len(text) - len(text.lstrip())
    shown = tuple(replace(word, span=(word.span[0] - lead, word.span[1] - lead)) for word in words)
    if not words:
        return AnswerWords(text.strip(), (), ())
    rows = [(replace(word, kind=WordKind.CONTENT, is_head=True), last_word(word.positions[0] - 1)) for word in shown]
    with control_tokens_hidden(vlm, [tokens], prepared.length) as hidden:
        found = record_pass(
            vlm,
            continued(vlm, prepared.inputs, hidden),
            tuple(layout.extended(len(tokens)) for layout in prepared.layouts),
            [tuple(word for row in rows for word in row)],
            spec,
        )
    return AnswerWords(text.strip(), shown, tuple(found.maps(0, row) for row in rows))
