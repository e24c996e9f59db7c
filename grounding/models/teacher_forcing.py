"""Where a model looks for the nouns of a finished text: one pass over picture, question and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from grounding.attention.recorder import record
from grounding.attention.request import Reduce, RowRequest
from grounding.errors import ExpressionError
from grounding.memory import explain_out_of_memory
from grounding.models.base import LAST_WORD, VLM, Prepared
from grounding.models.maps import mean_rows, spell, until_end
from grounding.text.align import align
from grounding.text.nouns import NounPhrase, noun_phrases
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word, WordKind

REFERENCE_WORDS = (
    32  # stop words whose rows are kept at most, evenly over the text; enough for a mean and for finding sinks
)
_REMEDY = "let it write fewer tokens, use smaller pictures, --dtype bfloat16, or a smaller model"


@dataclass(frozen=True)
class TextMaps:
    """A text and where each of its nouns looked.

    Attributes:
        text: without special tokens.
        phrases: its noun phrases in order.
        maps: per phrase the rows of its words, and last of `<last>`: the token before the noun, whose row is the one
            that the noun was predicted from, as a prompt's last token is what an answer is predicted from. So a method
            reads a phrase of an answer as it reads an expression of a prompt.
        witnesses: the rows of words that point at nothing, to compare with: the text's stop words, and the prompt's
            last token; None where there is no noun.
    """

    text: str
    phrases: tuple[NounPhrase, ...]
    maps: tuple[AttentionMaps, ...]
    reference_words: AttentionMaps | None


def teacher_forced_maps(
    vlm: VLM,
    prepared: Prepared,
    token_ids: Sequence[Sequence[int]],
    *,
    reduce: Reduce = "none",
    head_statistics: Sequence[str] = (),
    budget_bytes: int = 2 << 30,
) -> list[TextMaps]:
    """Let the model read texts behind their questions, as if it had written them, and keep the rows of their nouns.

    For a text that the model wrote by itself these are the rows of its decode steps, up to rounding. Here they are read
    afterwards and without steering, whoever wrote the text, for three reasons. A steered model looks at the picture
    because it is made to, so its own rows would be no witness for its words; read by the plain model, a steered and
    an unsteered text are held to one measure. Beams, several passes a step and texts of other models can be read, where
    decode steps could not be recorded. And the generation that is timed is not slowed down by recording.

    Args:
        vlm: the model.
        prepared: the batch of questions.
        token_ids: per element the tokens of the text; it is read up to its end token.
        reduce: see `attend`.
        head_statistics: see `attend`; queries are those of question and text.
        budget_bytes: see `attend`.

    Returns:
        One reading per element, of all layers and with `residual_sinks`. A noun that the tokenizer gives no token of
        its own is left out.

    Raises:
        BudgetError: the rows need more than the budget.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    token_ids = [until_end(vlm, tokens) for tokens in token_ids]
    told = [_Told.of(vlm, tokens, prepared.length) for tokens in token_ids]
    if not any(one.phrases for one in told):
        return [TextMaps(one.text, (), (), None) for one in told]
    image = tuple(tuple(int(p) for p in positions) for positions in prepared.image_positions)
    request = RowRequest(
        queries=tuple(one.positions for one in told),
        keys=image,
        reduce=reduce,
        head_statistics=tuple(head_statistics),
        image_keys=image,
        residual_sinks=True,
        budget_bytes=budget_bytes,
    )
    with (
        torch.inference_mode(),
        explain_out_of_memory(f"reading a text with {vlm.name}", _REMEDY),
        record(vlm.model, request) as recording,
    ):
        vlm.model(**continued(vlm, prepared.inputs, token_ids), use_cache=False, logits_to_keep=1)

    def maps(index: int, words: tuple[Word, ...]) -> AttentionMaps:
        row_of = {position: row for row, position in enumerate(request.queries[index])}
        sinks = recording.residual_sinks
        assert sinks is not None
        return AttentionMaps(
            values=mean_rows(recording.prefill[index], [[row_of[p] for p in word.positions] for word in words]),
            layers=() if request.reduces_layers else recording.layers,
            words=words,
            keys=prepared.image_positions[index],
            grids=prepared.grids[index],
            image_size=prepared.image_sizes[index],
            layer_count=vlm.layer_count,
            head_statistics={name: table.numpy() for name, table in recording.head_statistics[index].items()}
            if request.head_statistics
            else {},
            residual_sinks=sinks[index].numpy(),
        )

    return [
        TextMaps(one.text, one.phrases, tuple(maps(i, words) for words in one.words), maps(i, one.reference_words))
        for i, one in enumerate(told)
    ]


def tokens_of(vlm: VLM, text: str) -> tuple[int, ...]:
    """The tokens of a text that somebody else wrote.

    Raises:
        ExpressionError: the tokenizer cannot write the text: it has words outside a closed vocabulary.
    """
    ids = tuple(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])
    if vlm.tokenizer.unk_token_id in ids:
        at = ids.index(vlm.tokenizer.unk_token_id)
        before = spell(vlm.tokenizer, ids[:at])[0][-40:]
        raise ExpressionError(
            f"the text {text[:60]!r} has a word outside the vocabulary of {vlm.name}, behind {before!r}: use known "
            "words, or another model"
        )
    return ids


@dataclass(frozen=True)
class _Told:
    """A text with the words whose rows are wanted, their positions counted behind the prompt."""

    text: str
    phrases: tuple[NounPhrase, ...]
    words: tuple[tuple[Word, ...], ...]
    reference_words: tuple[Word, ...]

    @classmethod
    def of(cls, vlm: VLM, tokens: Sequence[int], length: int) -> _Told:
        text, spans = spell(vlm.tokenizer, tokens)
        lead = len(text) - len(text.lstrip())
        text, spans = text.strip(), tuple((max(0, start - lead), max(0, end - lead)) for start, end in spans)

        def placed(words: Sequence[Word]) -> tuple[Word, ...]:
            owned = zip(words, align([word.span for word in words], spans), strict=True)
            return tuple(replace(word, positions=tuple(length + t for t in at)) for word, at in owned if at)

        phrases, rows = [], []
        for phrase in noun_phrases(text, vlm.finder):
            words = placed(phrase.words)
            noun = next((word for word in words if word.is_head), None)
            if noun is not None:
                phrases.append(phrase)
                rows.append((*words, _last(noun.positions[0] - 1)))
        stops = placed([word for word in split_words(text) if word.kind is WordKind.STOP])
        kept = sorted({round(i) for i in np.linspace(0, len(stops) - 1, min(len(stops), REFERENCE_WORDS))})
        return cls(text, tuple(phrases), tuple(rows), (*(stops[i] for i in kept), _last(length - 1)))

    @property
    def positions(self) -> tuple[int, ...]:
        """Every position once."""
        return tuple(
            dict.fromkeys(p for words in (*self.words, self.reference_words) for word in words for p in word.positions)
        )


def _last(position: int) -> Word:
    return Word(LAST_WORD, (0, 0), (position,), WordKind.SPECIAL)


def continued(
    vlm: VLM, inputs: Mapping[str, torch.Tensor], token_ids: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """The prompt's inputs with texts behind them, padded on the right; further marks of text tokens are 0.

    Args:
        vlm: the model.
        inputs: of the prompt, by the model's argument names.
        token_ids: per element the tokens of the text.

    Returns:
        The longer inputs, on the same device.
    """
    longest = max(len(tokens) for tokens in token_ids)
    shape = inputs["input_ids"].shape
    ids = torch.full((shape[0], longest), vlm.tokenizer.pad_token_id, device=inputs["input_ids"].device)
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
