"""Where a model looks for the nouns of a finished text: one pass over picture, question and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from grounding.attention.recorder import record
from grounding.attention.request import Recording, Reduce, RowRequest
from grounding.errors import ExpressionError
from grounding.models.base import LAST_WORD, Family, Prepared
from grounding.models.maps import mean_rows, spell
from grounding.models.memory import explain_out_of_memory
from grounding.text.align import align
from grounding.text.nouns import NounPhrase, noun_phrases
from grounding.types import AttentionMaps, Word, WordKind

_REMEDY = "let it write fewer tokens, use smaller pictures, --dtype bfloat16, or a smaller model"


@dataclass(frozen=True)
class Reread:
    """A text and where each of its nouns looked.

    Attributes:
        text: without special tokens.
        phrases: its noun phrases in order.
        maps: per phrase the rows of its words, and last of `<last>`: the token before the noun, whose row is the one
            that the noun was predicted from, as a prompt's last token is what an answer is predicted from. So a method
            reads a phrase of an answer as it reads an expression of a prompt.
    """

    text: str
    phrases: tuple[NounPhrase, ...]
    maps: tuple[AttentionMaps, ...]


def reread(
    family: Family,
    prepared: Prepared,
    token_ids: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    reduce: Reduce = "none",
    head_statistics: Sequence[str] = (),
    residual_sinks: bool = False,
    budget_bytes: int = 2 << 30,
) -> list[Reread]:
    """Let the model read texts behind their questions, as if it had written them, and keep the rows of their nouns.

    For a text that the model wrote by itself these are the rows of its decode steps, up to rounding. Here they are read
    afterwards and without steering, whoever wrote the text, for three reasons. A steered model looks at the picture
    because it is made to, so its own rows would be no witness for its words; read by the plain model, a steered and
    an unsteered text are held to one measure. Beams, several passes a step and texts of other models can be read, where
    decode steps could not be recorded. And the generation that is timed is not slowed down by recording.

    Args:
        family: the model.
        prepared: the batch of questions.
        token_ids: per element the tokens of the text; an end token at its end changes nothing.
        layers: see `attend`.
        reduce: see `attend`.
        head_statistics: see `attend`; queries are those of question and text.
        residual_sinks: see `attend`.
        budget_bytes: see `attend`.

    Returns:
        One reading per element. A noun that the tokenizer gives no token of its own is left out.

    Raises:
        BudgetError: the rows need more than the budget.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    length = prepared.length
    told = [_placed(family, tokens, length) for tokens in token_ids]
    if not any(phrases for _, phrases in told):
        return [Reread(text, (), ()) for text, _ in told]
    image = tuple(tuple(int(p) for p in positions) for positions in prepared.image_positions)
    request = RowRequest(
        queries=tuple(_queries(phrases) for _, phrases in told),
        keys=image,
        layers=None if layers is None else tuple(layers),
        reduce=reduce,
        head_statistics=tuple(head_statistics),
        image_keys=image,
        residual_sinks=residual_sinks,
        budget_bytes=budget_bytes,
    )
    with (
        torch.inference_mode(),
        explain_out_of_memory(f"reading a text with {family.name}", _REMEDY),
        record(family.model, request) as recording,
    ):
        family.model(**_continued(family, prepared.inputs, token_ids), use_cache=False, logits_to_keep=1)
    return [
        Reread(
            text,
            tuple(phrase for phrase, _ in phrases),
            tuple(_maps(family, prepared, request, recording, index, words) for _, words in phrases),
        )
        for index, (text, phrases) in enumerate(told)
    ]


def tokens_of(family: Family, text: str) -> tuple[int, ...]:
    """The tokens of a text that somebody else wrote.

    Raises:
        ExpressionError: the tokenizer cannot write the text: it has words outside a closed vocabulary.
    """
    ids = tuple(family.tokenizer(text, add_special_tokens=False)["input_ids"])
    if family.tokenizer.unk_token_id in ids:
        at = ids.index(family.tokenizer.unk_token_id)
        before = spell(family.tokenizer, ids[:at])[0][-40:]
        raise ExpressionError(
            f"the text {text[:60]!r} has a word outside the vocabulary of {family.name}, behind {before!r}: use known "
            "words, or another model"
        )
    return ids


Placed = list[tuple[NounPhrase, tuple[Word, ...]]]


def _placed(family: Family, tokens: Sequence[int], length: int) -> tuple[str, Placed]:
    """A text, and its noun phrases with the words that `Reread.maps` has rows of, counted behind `length` positions."""
    text, spans = spell(family.tokenizer, tokens)
    found: Placed = []
    for phrase in noun_phrases(text, family.finder):
        owned = align([word.span for word in phrase.words], spans)
        words = [
            replace(word, positions=tuple(length + t for t in positions))
            for word, positions in zip(phrase.words, owned, strict=True)
            if positions
        ]
        noun = next((word for word in words if word.is_head), None)
        if noun is not None:
            before = Word(LAST_WORD, (0, 0), (noun.positions[0] - 1,), WordKind.SPECIAL)
            found.append((phrase, (*words, before)))
    return text, found


def _queries(phrases: Placed) -> tuple[int, ...]:
    return tuple(dict.fromkeys(p for _, words in phrases for word in words for p in word.positions))


def _continued(
    family: Family, inputs: Mapping[str, torch.Tensor], token_ids: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """The prompt's inputs with the texts behind them, padded on the right; further marks of text tokens are 0."""
    longest = max(len(tokens) for tokens in token_ids)
    shape = inputs["input_ids"].shape
    ids = torch.full((shape[0], longest), family.tokenizer.pad_token_id, device=inputs["input_ids"].device)
    real = torch.zeros_like(ids)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = torch.tensor(tokens, device=ids.device)
        real[row, : len(tokens)] = 1
    tails = {"input_ids": ids, "attention_mask": real}
    return {
        name: torch.cat([value, tails.get(name, torch.zeros_like(ids)).to(value.dtype)], dim=1)
        if value.shape == shape
        else value
        for name, value in inputs.items()
    }


def _maps(
    family: Family,
    prepared: Prepared,
    request: RowRequest,
    recording: Recording,
    index: int,
    words: tuple[Word, ...],
) -> AttentionMaps:
    row_of = {position: row for row, position in enumerate(request.queries[index])}
    sinks = recording.residual_sinks
    return AttentionMaps(
        values=mean_rows(recording.prefill[index], [[row_of[p] for p in word.positions] for word in words]),
        layers=() if request.reduces_layers else recording.layers,
        words=words,
        keys=np.asarray(prepared.image_positions[index], dtype=np.int64),
        grids=prepared.grids[index],
        image_size=prepared.image_sizes[index],
        layer_count=family.layer_count,
        head_statistics={name: table.numpy() for name, table in recording.head_statistics[index].items()}
        if request.head_statistics
        else {},
        residual_sinks=None if sinks is None else sinks[index].numpy(),
    )
