"""From a prepared batch to attention maps: one forward pass, or one generation, under the recorder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from grounding.attention.recorder import record
from grounding.attention.request import Reduce, RowRequest
from grounding.memory import explain_out_of_memory
from grounding.models.base import VLM, Prepared
from grounding.text.align import Span, align
from grounding.text.words import split_words
from grounding.types import AttentionMaps, Word

if TYPE_CHECKING:
    from grounding.attention.request import Recording

_REMEDY = "use fewer pictures per batch, smaller pictures, --dtype bfloat16, or a smaller model"


@dataclass(frozen=True)
class Answer:
    """What a model said about a picture, and where its prompt and its own words looked.

    Attributes:
        text: the generated text without special tokens.
        prompt: the maps of the prompt's words, as `attend` gives them.
        words: the maps of the generated words, whose spans are in `text`; None where it has no word.
    """

    text: str
    prompt: AttentionMaps
    words: AttentionMaps | None


def attend(
    vlm: VLM,
    prepared: Prepared,
    *,
    keys: Literal["image", "all"] = "image",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    reduce: Reduce = "none",
    head_statistics: Sequence[str] = (),
    residual_sinks: bool = False,
    budget_bytes: int = 2 << 30,
) -> list[AttentionMaps]:
    """Run the model once and keep the rows of the batch's words.

    Args:
        vlm: the model.
        prepared: the batch, from the same family.
        keys: the columns to keep: `image`, every position that holds an image token, or `all` but padding.
        layers: decoder layers to record; all where None.
        heads: query heads to record; all where None.
        reduce: axes to average while the model runs: `none`, `heads`, `layers` or `both`.
        head_statistics: `max_all`, `max_image`; see `AttentionMaps`.
        residual_sinks: whether to record how each key's residual stream stands out in the sink dimensions.
        budget_bytes: the most the recording may hold.

    Returns:
        One maps object per element, its words in the order of `prepared.words`. A word of several tokens is the mean of
        its tokens' rows (our choice; the papers' words are single tokens).

    Raises:
        BudgetError: the rows asked for need more than the budget.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    request = _request(prepared, keys, layers, heads, reduce, head_statistics, residual_sinks, budget_bytes)
    with (
        torch.inference_mode(),
        explain_out_of_memory(f"running {vlm.name}", _REMEDY),
        record(vlm.model, request) as recording,
    ):
        vlm.model(**prepared.inputs, use_cache=False, logits_to_keep=1)
    return [_prompt_maps(prepared, request, recording, index, vlm.layer_count) for index in range(len(prepared))]


def answer(
    vlm: VLM,
    prepared: Prepared,
    *,
    max_new_tokens: int = 64,
    keys: Literal["image", "all"] = "image",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    reduce: Reduce = "none",
    head_statistics: Sequence[str] = (),
    residual_sinks: bool = False,
    budget_bytes: int = 2 << 30,
) -> list[Answer]:
    """Let the model answer greedily and keep the rows of the prompt's and of the generated words.

    A generated token's row is the one with the token itself as query, as for a prompt's word, so it is taken from the
    step that reads the token; one token more than asked for is generated so that the last one is read too.

    Args:
        vlm: the model.
        prepared: the batch, from the same family.
        max_new_tokens: the longest answer in tokens.
        keys: see `attend`; `all` means all positions of the prompt.
        layers: see `attend`.
        heads: see `attend`.
        reduce: see `attend`.
        head_statistics: see `attend`.
        residual_sinks: see `attend`.
        budget_bytes: see `attend`.

    Returns:
        One answer per element.

    Raises:
        BudgetError: the rows asked for need more than the budget.
        RecordingError: this model's attention cannot be recorded.
        ModelError: out of memory.
    """
    request = replace(
        _request(prepared, keys, layers, heads, reduce, head_statistics, residual_sinks, budget_bytes),
        decode=True,
        decode_steps=max_new_tokens,
    )
    with (
        torch.inference_mode(),
        explain_out_of_memory(f"generating with {vlm.name}", _REMEDY),
        record(vlm.model, request) as recording,
    ):
        sequences = vlm.model.generate(
            **prepared.inputs,
            max_new_tokens=max_new_tokens + 1,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    answers = []
    for index in range(len(prepared)):
        tokens = until_end(vlm, sequences[index, prepared.length :].tolist())[:max_new_tokens]
        text, spans = spell(vlm.tokenizer, tokens)
        prompt = _prompt_maps(prepared, request, recording, index, vlm.layer_count)
        spoken = _generated_maps(prompt, recording, index, text, spans, prepared.length)
        answers.append(Answer(text, prompt, spoken))
    return answers


def spell(tokenizer: object, tokens: Sequence[int]) -> tuple[str, tuple[Span, ...]]:
    """The text of generated tokens and which characters each token writes.

    Args:
        tokenizer: the tokenizer that the tokens belong to.
        tokens: token ids.

    Returns:
        (text without special tokens, one (start, end) per token). The bytes of one letter all have the letter's span; a
        token that writes nothing has an empty one.
    """

    def decoded(ids: Sequence[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[attr-defined]
        )

    text = decoded(tokens)
    special = set(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    ends = [0]
    for count in range(1, len(tokens) + 1):
        part = decoded(tokens[:count])
        # A letter whose bytes are not complete yet is spelled as a replacement character, which the text does not have.
        ends.append(
            next((i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b), min(len(part), len(text)))
        )
    spans = []
    for index, token in enumerate(tokens):
        start, end = ends[index], ends[index + 1]
        spans.append((start, start) if token in special else (start, max(end, min(start + 1, len(text)))))
    return text, tuple(spans)


def _request(
    prepared: Prepared,
    keys: Literal["image", "all"],
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    reduce: Reduce,
    head_statistics: Sequence[str],
    residual_sinks: bool,
    budget_bytes: int,
) -> RowRequest:
    image = tuple(tuple(int(p) for p in positions) for positions in prepared.image_positions)
    every = tuple(tuple(range(start, prepared.length)) for start in prepared.padding)
    return RowRequest(
        # A prompt may end with the expression; then its last word and `<last>` share a position.
        queries=tuple(tuple(dict.fromkeys(p for word in words for p in word.positions)) for words in prepared.words),
        keys=image if keys == "image" else every,
        layers=None if layers is None else tuple(layers),
        heads=None if heads is None else tuple(heads),
        reduce=reduce,
        head_statistics=tuple(head_statistics),
        image_keys=image,
        residual_sinks=residual_sinks,
        budget_bytes=budget_bytes,
    )


def _prompt_maps(
    prepared: Prepared, request: RowRequest, recording: Recording, index: int, layer_count: int
) -> AttentionMaps:
    words = prepared.words[index]
    assert request.keys is not None
    row_of = {position: row for row, position in enumerate(request.queries[index])}
    sinks = recording.residual_sinks
    return AttentionMaps(
        values=mean_rows(recording.prefill[index], [[row_of[p] for p in word.positions] for word in words]),
        layers=() if request.reduces_layers else recording.layers,
        words=words,
        keys=np.asarray(request.keys[index], dtype=np.int64),
        grids=prepared.grids[index],
        image_size=prepared.image_sizes[index],
        layer_count=layer_count,
        head_statistics={k: v.numpy() for k, v in recording.head_statistics[index].items()}
        if request.head_statistics
        else {},
        residual_sinks=None if sinks is None else sinks[index].numpy(),
    )


def _generated_maps(
    prompt: AttentionMaps, recording: Recording, index: int, text: str, spans: Sequence[Span], length: int
) -> AttentionMaps | None:
    words = split_words(text)
    placed: list[Word] = []
    rows: list[Sequence[int]] = []
    for word, tokens in zip(words, align([word.span for word in words], spans), strict=True):
        if tokens:
            placed.append(replace(word, positions=tuple(length + t for t in tokens)))
            rows.append(tokens)
    if not placed:
        return None
    steps = recording.decode[index].squeeze(3).permute(1, 2, 0, 3)  # [steps, L, H, 1, C] -> [L, H, steps, C]
    return replace(prompt, values=mean_rows(steps, rows), words=tuple(placed))


def mean_rows(rows: torch.Tensor, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """[L, H, R, C] and the rows of each of T words -> [L, H, T, C]."""
    return torch.stack([rows[:, :, list(group)].mean(dim=2) for group in groups], dim=2).numpy()


def until_end(vlm: VLM, tokens: Sequence[int]) -> Sequence[int]:
    """The tokens before the first end token."""
    end = vlm.model.generation_config.eos_token_id
    ends = set(end) if isinstance(end, list | tuple) else {end}
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]
