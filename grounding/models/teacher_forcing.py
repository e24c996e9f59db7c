"""Attention maps of a finished text's nouns, by teacher forcing: one forward pass over picture, question and text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from grounding.errors import ExpressionError
from grounding.models.base import VLM
from grounding.models.maps import record_pass
from grounding.models.prepared import Prepared, last_word
from grounding.models.spelling import spell, until_end
from grounding.record_spec import RecordSpec
from grounding.text.align import align
from grounding.text.nouns import NounPhrase, noun_phrases
from grounding.text.vocabulary import refuse_broken_text, refuse_control_tokens
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word, WordKind

FindPhrases = Callable[[str], Sequence[NounPhrase]]

REFERENCE_WORDS = 32  # most stop words whose rows are kept, spread evenly over the text


@dataclass(frozen=True)
class TextMaps:
    """A text and the attention maps of its nouns.

    Attributes:
        text: the text without special tokens.
        phrases: its noun phrases in order.
        maps: per phrase the rows of its words, then of `<last>`: here the token before the noun, from which the noun
            was predicted, as an answer is predicted from a prompt's last token. A method reads these maps as it reads
            those of an expression.
        reference_words: the rows of the text's stop words and of the prompt's last token, for comparison; None where
            the text has no noun.
    """

    text: str
    phrases: tuple[NounPhrase, ...]
    maps: tuple[AttentionMaps, ...]
    reference_words: AttentionMaps | None


def teacher_forced_maps(
    vlm: VLM,
    prepared: Prepared,
    token_ids: Sequence[Sequence[int]],
    spec: RecordSpec,
    picture: int = 0,
    phrases: FindPhrases | None = None,
) -> list[TextMaps]:
    """Record the nouns of texts with the unsteered model under teacher forcing.

    For a text that the model generated unsteered these are the rows of its decode steps, up to rounding. Steered
    models attend to the image by construction, so recording the unsteered model holds steered and unsteered texts to
    one measure. It also covers beam search, several passes a step and texts from elsewhere, and leaves the speed of the
    generation alone.

    Args:
        vlm: the model.
        prepared: the batch of questions.
        token_ids: per element the tokens of the text; tokens from the first end token on are ignored.
        spec: what to record. Head statistics are over the queries of question and text. The `background_prompt` is
            not recorded here.
        picture: which picture of each prompt the maps are of.
        phrases: finds the noun phrases of a text whose maps are wanted; all that the model's noun finder finds where
            None.

    Returns:
        The maps of one text per element. A noun without a token of its own is left out.

    Raises:
        BudgetError: the rows need more bytes than the spec allows.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    token_ids = [until_end(vlm.model, tokens) for tokens in token_ids]
    find = phrases or (lambda text: noun_phrases(text, vlm.finder))
    texts = [_TextWords.of(vlm, tokens, prepared.length, find) for tokens in token_ids]
    if not any(text.phrases for text in texts):
        return [TextMaps(text.text, (), (), None) for text in texts]
    with control_tokens_hidden(vlm, token_ids, prepared.length) as shown:
        found = record_pass(
            vlm,
            continued(vlm, prepared.inputs, shown),
            tuple(one.extended(len(tokens)) for one, tokens in zip(prepared.layouts, token_ids, strict=True)),
            [text.all_words for text in texts],
            spec,
        )
    return [
        TextMaps(
            text.text,
            text.phrases,
            tuple(found.maps(element, words, picture) for words in text.words),
            found.maps(element, text.reference_words, picture),
        )
        for element, text in enumerate(texts)
    ]


def tokens_of(vlm: VLM, text: str) -> tuple[int, ...]:
    """The tokens of a text that the model did not generate.

    Raises:
        ExpressionError: the text has words outside a closed vocabulary, or contains one of the model's control tokens.
    """
    refuse_broken_text(text)
    refuse_control_tokens(text, vlm.image_token, vlm.tokenizer, vlm.name)
    ids = tuple(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])
    if vlm.tokenizer.unk_token_id in ids:
        at = ids.index(vlm.tokenizer.unk_token_id)
        before = spell(vlm.tokenizer, ids[:at])[0][-40:]
        raise ExpressionError(
            f"the text {text[:60]!r} has a word outside the vocabulary of {vlm.name}, behind {before!r}: use known "
            "words, or another model"
        )
    return ids


@contextmanager
def control_tokens_hidden(vlm: VLM, token_ids: Sequence[Sequence[int]], length: int) -> Iterator[list[list[int]]]:
    """Hide control tokens of generated texts from the model's search for them, and keep what they contribute.

    A model may generate its own image token. While it decodes, that token is one like any other; in a pass over picture
    and text the model would take it for a cell of a second picture, and refuse. Inside this context padding tokens
    stand in its place, and the embedding layer gives the hidden tokens' embeddings there.

    Args:
        vlm: the model.
        token_ids: per element the tokens of the text.
        length: N of the prompt, behind which the texts begin.

    Yields:
        The tokens with their control tokens replaced.
    """
    control, embedding = set(vlm.tokenizer.added_tokens_decoder), vlm.model.get_input_embeddings()
    hidden = [(row, i, t) for row, tokens in enumerate(token_ids) for i, t in enumerate(tokens) if t in control]
    shown = [[vlm.tokenizer.pad_token_id if t in control else t for t in tokens] for tokens in token_ids]
    if not hidden:
        yield shown
        return
    rows, places, ids = (torch.tensor(column, device=vlm.device) for column in zip(*hidden, strict=True))
    with torch.inference_mode():
        own = embedding(ids)

    def put_back(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        result = output.clone()
        result[rows, length + places] = own
        return result

    handle = embedding.register_forward_hook(put_back)
    try:
        yield shown
    finally:
        handle.remove()


def continued(
    vlm: VLM, inputs: Mapping[str, torch.Tensor], token_ids: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """The prompt's inputs with texts behind them, padded on the right.

    Inputs of shape [B, N] other than ids and attention mask, such as token types, are 0 for the texts, or what the
    family's `text_types` say; its `fixed_inputs` stay as they are, and `repeated_inputs` repeat their last position.

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
    tails |= {name: torch.full_like(ids, kind) for name, kind in vlm.text_types.items()}
    tails |= {name: inputs[name][:, -1:].expand(-1, longest, *inputs[name].shape[2:]) for name in vlm.repeated_inputs}
    return {
        name: torch.cat([value, tails.get(name, torch.zeros_like(ids)).to(value.dtype)], dim=1)
        if name in tails or (value.shape == shape and name not in vlm.fixed_inputs)
        else value
        for name, value in inputs.items()
    }


@dataclass(frozen=True)
class _TextWords:
    """A text and the words whose rows are recorded, at their positions behind the prompt."""

    text: str
    phrases: tuple[NounPhrase, ...]
    words: tuple[tuple[Word, ...], ...]
    reference_words: tuple[Word, ...]

    @classmethod
    def of(cls, vlm: VLM, tokens: Sequence[int], length: int, find: FindPhrases) -> _TextWords:
        text, spans = spell(vlm.tokenizer, tokens)
        lead = len(text) - len(text.lstrip())
        text, spans = text.strip(), tuple((max(0, start - lead), max(0, end - lead)) for start, end in spans)

        def placed(words: Sequence[Word]) -> tuple[Word, ...]:
            owned = zip(words, align([word.span for word in words], spans), strict=True)
            return tuple(replace(word, positions=tuple(length + t for t in at)) for word, at in owned if at)

        phrases, rows = [], []
        for phrase in find(text):
            words = placed(phrase.words)
            noun = next((word for word in words if word.is_head), None)
            if noun is not None:
                phrases.append(phrase)
                rows.append((*words, last_word(noun.positions[0] - 1)))
        stops = placed([word for word in split_words(text) if word.kind is WordKind.STOP])
        kept = sorted({round(i) for i in np.linspace(0, len(stops) - 1, min(len(stops), REFERENCE_WORDS))})
        return cls(text, tuple(phrases), tuple(rows), (*(stops[i] for i in kept), last_word(length - 1)))

    @property
    def all_words(self) -> tuple[Word, ...]:
        """Words of all phrases, then the reference words."""
        return (*(word for words in self.words for word in words), *self.reference_words)
