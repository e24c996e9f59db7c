"""Run what several questions about one picture have in common once, and answer each from a copy of its key-value cache.

The questions of a picture begin with the same tokens, its image tokens among them, and those are most of a prompt. The
common beginning of each picture's prompts is run once; then every prompt goes on with its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from grounding.compat import cache_argument, generation_positions
from grounding.models.clips import ClipReader
from grounding.source import fingerprint

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from grounding.models.prepared import Prepared

_TOLERANCE = 1e-3  # of float32 logits, in units of their standard deviation
_LOW_TOLERANCE = 0.1  # of bfloat16 and float16


@dataclass(frozen=True)
class SharedPrompt:
    """Inputs of `generate` that begin with a cache.

    Attributes:
        inputs: token ids and mask [B, N] and the cache of the first columns, by the model's argument names.
        length: N, padding included.
        shared: tokens of all rows that were not computed again.
    """

    inputs: dict[str, Any]
    length: int
    shared: int


def shared_prompt(
    vlm: VLM, images: Sequence[Image.Image], questions: Sequence[str], prepared: Prepared
) -> SharedPrompt | None:
    """Run the common beginning of each picture's prompts.

    Args:
        vlm: the model.
        images: RGB pictures, one per question; equal pixels are one picture.
        questions: one per picture.
        prepared: the same batch, from `VLM.prepare_questions`.

    Returns:
        The inputs to generate from, rows in the same order; None where a picture's prompts do not begin alike up to its
        last image token, no picture has two prompts, or the model reads clips.
    """
    if isinstance(vlm, ClipReader):
        return None
    rows = _real_tokens(prepared)
    groups: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(fingerprint(image), []).append(index)
    pictures = list(groups.values())
    lengths = [_common([rows[index] for index in group]) for group in pictures]
    for group, length in zip(pictures, lengths, strict=True):
        layout = prepared.layouts[group[0]]
        last_image = int(layout.image.max()) - (prepared.length - len(rows[group[0]]))
        if length <= last_image:
            return None
    if len(pictures) == len(images):
        return None
    firsts = [group[0] for group in pictures]
    alone = vlm.prepare_questions([images[at] for at in firsts], [questions[at] for at in firsts])
    cache = _run(vlm, alone, lengths)
    of_row = torch.empty(len(images), dtype=torch.long, device=vlm.device)
    for number, group in enumerate(pictures):
        of_row[group] = number
    cache.batch_select_indices(of_row)
    inputs = _joined(vlm, prepared, [lengths[number] for number in of_row.tolist()])
    saved = sum((len(group) - 1) * length for group, length in zip(pictures, lengths, strict=True))
    return SharedPrompt({**inputs, cache_argument(vlm.model): cache}, inputs["input_ids"].shape[1], saved)


def why_not_shared(vlm: VLM, image: Image.Image, questions: Sequence[str]) -> str | None:
    """Find out by trial whether a model answers alike from a shared beginning.

    Models may compute positions from the whole prompt, let image tokens attend to the question, or keep states of
    another kind; so the next token's logits from the shared beginning are compared with those of the whole prompt.

    Args:
        vlm: the model.
        image: a picture.
        questions: at least two that differ.

    Returns:
        Why its cache cannot be shared, in a few words; None where it can.
    """
    if not vlm.cells_are_tokens:
        return "it reads pictures by cross-attention, which the cache of a prompt's tokens does not hold"
    if isinstance(vlm, ClipReader):
        return "it reads clips, whose frames are not compared"
    prepared = vlm.prepare_questions([image, image], questions[:2])
    with torch.inference_mode():
        try:
            shared = shared_prompt(vlm, [image, image], questions[:2], prepared)
            if shared is None:
                return "its prompts do not begin alike up to the picture's last token"
            found = _next_logits(vlm, shared.inputs)
        # Models refuse a copied cache in ways of their own, by any of these; each means that it cannot be shared, and
        # the questions are then asked whole. What is no refusal, such as an interrupt or full memory, is passed on.
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as wrong:
            if isinstance(wrong, torch.OutOfMemoryError):
                raise
            return f"it does not go on from a cache ({type(wrong).__name__})"
        whole = _next_logits(vlm, dict(prepared.inputs))
    limit = _TOLERANCE if whole.dtype == torch.float32 and vlm.model.dtype == torch.float32 else _LOW_TOLERANCE
    apart = float((found - whole).abs().max() / whole.std())
    return None if apart <= limit else "its answer to a question depends on more than the cache of what is before it"


def _next_logits(vlm: VLM, inputs: dict[str, Any]) -> torch.Tensor:
    """[B, V] logits of the first new token."""
    output = vlm.model.generate(
        **inputs,
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=vlm.tokenizer.pad_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.logits[0]


def _real_tokens(prepared: Prepared) -> list[list[int]]:
    """Per row its tokens without the padding on the left."""
    ids, mask = prepared.inputs["input_ids"], prepared.inputs["attention_mask"].bool()
    return [row[real].tolist() for row, real in zip(ids, mask, strict=True)]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens are equal in all rows; at least one token of each is left over."""
    shortest = min(len(row) for row in rows) - 1
    return next((at for at in range(shortest) if len({row[at] for row in rows}) > 1), shortest)


def _run(vlm: VLM, alone: Prepared, lengths: Sequence[int]) -> Any:
    """The cache of the first tokens of each prompt, padded on the left to one length."""
    from transformers import DynamicCache

    shape, width = alone.inputs["input_ids"].shape, max(lengths)
    parts = [
        [(slice(pad, pad + length), slice(width - length, width))]
        for pad, length in zip(_padding(alone), lengths, strict=True)
    ]
    tokens = {name: _laid_out(value, parts, width) for name, value in alone.inputs.items() if value.shape == shape}
    others = {name: value for name, value in alone.inputs.items() if value.shape != shape}
    mask = tokens["attention_mask"]
    tokens["input_ids"] = tokens["input_ids"].masked_fill(mask == 0, vlm.tokenizer.pad_token_id)
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    vlm.model(
        **tokens,
        **others,
        **{cache_argument(vlm.model): cache},
        position_ids=_laid_out(_positions(vlm, alone), parts, width),
        use_cache=True,
        logits_to_keep=1,
    )
    return cache


def _joined(vlm: VLM, prepared: Prepared, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Ids, mask and positions: beginnings end in one column and rows in the last; padding is before each part."""
    whole, padding, head = prepared.length, _padding(prepared), max(lengths)
    width = head + max(whole - pad - length for pad, length in zip(padding, lengths, strict=True))
    parts = [
        [
            (slice(pad, pad + length), slice(head - length, head)),
            (slice(pad + length, whole), slice(width - (whole - pad - length), width)),
        ]
        for pad, length in zip(padding, lengths, strict=True)
    ]
    mask = _laid_out(prepared.inputs["attention_mask"], parts, width)
    ids = _laid_out(prepared.inputs["input_ids"], parts, width).masked_fill(mask == 0, vlm.tokenizer.pad_token_id)
    positions = _laid_out(_positions(vlm, prepared), parts, width)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def _padding(prepared: Prepared) -> list[int]:
    """Per row how many columns on the left are padding."""
    padding: list[int] = (prepared.inputs["attention_mask"] == 0).sum(dim=1).tolist()
    return padding


def _positions(vlm: VLM, prepared: Prepared) -> torch.Tensor:
    """[..., B, N] position ids, as `generate` computes them for the whole prompts."""
    found = generation_positions(vlm.model, prepared.inputs)
    return (prepared.inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0) if found is None else found


def _laid_out(values: torch.Tensor, parts: Sequence[Sequence[tuple[slice, slice]]], width: int) -> torch.Tensor:
    """[..., B, width]: per row the columns of each part where the part says, and 0 elsewhere."""
    result = values.new_zeros((*values.shape[:-1], width))
    for row, own in enumerate(parts):
        for source, target in own:
            result[..., row, target] = values[..., row, source]
    return result
