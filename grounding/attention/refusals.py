"""Refuse passes and calls of which a recording would keep wrong rows or none; each sentence says what to do."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from grounding.attention.budget import DecoderShape
from grounding.attention.call import AttentionCall
from grounding.attention.generation import RefusedReorder
from grounding.attention.request import RowRequest
from grounding.errors import RecordingError


def refuse_unclear_end(request: RowRequest, prompt: int) -> None:
    """Refuse a run without `generate` whose passes do not tell where the prompt ends.

    Args:
        request: what to record.
        prompt: the prompt's length if the pass that begins is a decode step.

    Raises:
        RecordingError: a query may be a generated token, or the last query is not the prompt's end.
    """
    last = max((max(q) for q in request.queries if q), default=-1)
    if last >= prompt:
        raise RecordingError(
            f"query position {last} is read by a pass of one position, which looks like a decode step: read the "
            "last piece of the prompt in a pass of several positions (another prefill_chunk_size), or with "
            "model.generate"
        )
    if request.decode and last != prompt - 1:
        raise RecordingError(
            "decode steps are recorded of passes that do not say where the prompt ends: add the prompt's last "
            "position to the queries, or run model.generate"
        )


def refuse_incomplete(failed: bool) -> None:
    """Refuse to go on where a pass whose rows were wanted has failed.

    Raises:
        RecordingError: one has.
    """
    if failed:
        raise RecordingError(
            "a pass that was to be recorded failed inside this record() block, so its rows are incomplete: open a new "
            "block, and read the prompt again in it"
        )


def refuse_missed(request: RowRequest, past: int) -> None:
    """Refuse queries among the `past` positions that were read before recording began.

    Raises:
        RecordingError: there is one; the message names the first.
    """
    missed = [q for element in request.queries for q in element if q < past]
    if missed:
        raise RecordingError(
            f"query position {missed[0]} was already in the cache ({past} positions) when recording began; open "
            "record() before the pass that reads it"
        )


def refuse_unreached(request: RowRequest, prompt: int) -> None:
    """Refuse positions outside a prompt of `prompt` positions; keys of cross-attention are no positions.

    Raises:
        RecordingError: a query, key or image key is outside.
    """
    keys = (("key", request.keys), ("image key", request.image_keys))
    named = (("query", request.queries), *(keys if request.spec.attention != "cross" else ()))
    for name, positions in named:
        for element, chosen in enumerate(positions or ()):
            if chosen and max(chosen) >= prompt:
                raise RecordingError(
                    f"{name} position {max(chosen)} of batch element {element} is outside the prompt, which has "
                    f"{prompt} positions (0 to {prompt - 1}); count positions in the processed prompt"
                )


def refuse_shape(layer: int, call: AttentionCall, request: RowRequest, shape: DecoderShape, queries: int) -> None:
    """Refuse a call that does not fit the request, the decoder or its pass.

    Args:
        layer: the decoder layer.
        call: its call.
        request: what to record.
        shape: the decoder's sizes.
        queries: positions that the pass reads.

    Raises:
        RecordingError: other numbers of sequences, heads or queries, or dropout.
    """
    batch, heads, found = call.query.shape[:3]
    if batch != request.batch_size:
        raise RecordingError(
            f"the model runs {batch} sequences but the request is for {request.batch_size}; give one tuple of "
            "queries per sequence, those of beams and num_return_sequences included (their decode steps need "
            "decode=False)"
        )
    if heads != shape.heads:
        raise RecordingError(f"layer {layer} runs {heads} heads but {_why_other_heads(shape.heads)}")
    if call.dropout:
        raise RecordingError(
            f"layer {layer} drops attention weights at random (dropout {call.dropout:g}), so its output is not "
            "that of the recorded weights: call model.eval() first"
        )
    if found != queries:
        raise RecordingError(
            f"layer {layer} attends from {found} positions where the pass has {queries}, as layers with shared keys do "
            "while generate reads a prompt: record a pass of model(**inputs), which keeps every position, or other "
            "layers"
        )


def _why_other_heads(heads: int) -> str:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return f"the model's config says {heads}, as under tensor parallelism; record in one process with all heads"
    return (
        f"the model's config says {heads}: the layers of one recording have equal numbers of heads, so choose those of "
        f"{heads} with RecordSpec(layers=...)"
    )


def forbid_reorder(cache: Any, undo: ExitStack) -> None:
    """Refuse any reordering of a cache from now on.

    Args:
        cache: a transformers `Cache`.
        undo: receives a callback that allows it again.
    """
    if "reorder_cache" not in vars(cache):
        cache.reorder_cache = RefusedReorder(cache)
        undo.callback(lambda: vars(cache).pop("reorder_cache", None))
