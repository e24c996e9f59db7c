"""Mask attention to text sinks while a diffusion transformer runs, or redirect it onto magnets.

With w [X, K] the weights of one head's image queries, S the sinks and M the magnets, an edited query x has

    mask       w'[x, k] = w[x, k] / (1 - sum_S w[x, s])                   for k outside S, 0 on S
    redirect   w'[x, m] = w[x, m] * (1 + sum_S w[x, s] / sum_M w[x, m])   for m in M, 0 on S, w[x, k] elsewhere

Both are changes of logits: minus infinity on S, and log(1 + sum_S / sum_M) on M, which needs the logits of text alone.

Shape letters: H heads, X image cells, T text tokens, R rows, K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.columns import iter_columns, masked_logits, only_keys
from grounding.attention.events import Subscriber
from grounding.attention.rows import as_index
from grounding.diffusion.sequence import Placement
from grounding.errors import ExpressionError
from grounding.joint_spec import SinkEdit
from grounding.maps.text_sinks import find_sinks, measure
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, BoolArray, EditedSinks, FloatArray, Word, WordKind

Recorder = Callable[[RecordSpec, "SinkEditor | None"], AttentionMaps]
"""Runs the transformer on the same noise every time, edited where an editor is given, and returns the maps."""


def read_edited(record: Recorder, spec: RecordSpec, placement: Placement, words: Sequence[Word]) -> AttentionMaps:
    """Record maps with the spec's edit of sinks.

    A rule needs a first run to find the sinks; where it finds none, the maps are those of that run.

    Args:
        record: runs the transformer.
        spec: what to record; its `sinks` is given.
        placement: positions of cells and text.
        words: words that own every text token once.

    Raises:
        ExpressionError: there are sinks to be redirected and no magnets, because the expression holds them all.
    """
    edit = spec.sinks
    assert edit is not None
    plain = replace(spec, sinks=None)
    magnet = np.array([word.kind is WordKind.MAGNET for word in words])
    editor = partial(SinkEditor, edit, placement, _of_tokens(magnet, words, placement))
    if edit.strongest:
        _need_magnets(edit, magnet)
        own = editor(None)
        maps = record(plain, own)
        return replace(maps, sinks=EditedSinks(_of_words(own.edited(), words, placement)))
    first = record(replace(plain, text_to_text=spec.text_to_text or edit.rule.between > 0), None)
    evidence = measure(first, edit.rule).astype(np.float32)  # as it is kept, so that it is judged alike later
    sinks = find_sinks(first, edit.rule, evidence)[1]
    if edit.how == "redirect":
        sinks = sinks & ~magnet
    if sinks.any():
        _need_magnets(edit, magnet)
        maps = record(plain, editor(_of_tokens(sinks, words, placement)))
    else:
        maps = first if spec.text_to_text else replace(first, text_to_text=None)
    return replace(maps, sinks=EditedSinks(sinks.astype(np.float32), evidence))


class SinkEditor(Subscriber):
    """Change attention to sinks in every call that it is given; the transformer's batch has one element.

    Args:
        edit: what is changed and whose attention.
        placement: positions of cells and text.
        magnets: [T] text tokens that are magnets.
        sinks: [T] text tokens that are sinks; None finds the strongest of each call anew.
    """

    def __init__(self, edit: SinkEdit, placement: Placement, magnets: BoolArray, sinks: BoolArray | None) -> None:
        self._edit, self._placement = edit, placement
        self._magnets = torch.from_numpy(magnets)
        self._sinks = None if sinks is None else torch.from_numpy(sinks)
        self._taken = torch.zeros(len(magnets))
        self._calls = 0

    def edited(self) -> FloatArray:
        """(T,) share of calls and heads in which a token's attention was taken."""
        share: FloatArray = (self._taken / max(self._calls, 1)).numpy()
        return share

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        """Add the edit."""
        device = call.query.device
        sinks = self._strongest(call) if self._sinks is None else self._sinks[None].to(device)  # [H or 1, T]
        if not sinks.any():
            return call
        self._taken += sinks.float().mean(dim=0).cpu()
        self._calls += 1
        cells = self._placement.cells
        whole = self._edit.queries == "all" or len(cells) == call.query_count
        edited = None if whole else torch.zeros(call.query_count, dtype=torch.bool, device=device)
        if edited is not None:
            edited[as_index(cells, device)] = True
        change = partial(self._change, sinks, edited)
        return call.changed(edits=(*call.edits, RowEdit(0 if whole else cells[0], change)))

    def _strongest(self, call: AttentionCall) -> Tensor:
        """[H, T] the text keys that image queries attend to most, in the softmax over all keys."""
        cells, text = (as_index(some, call.query.device) for some in (self._placement.cells, self._placement.text))
        total = torch.zeros(call.head_count, len(text), device=text.device)
        for _, weights in iter_columns(call, 0, cells, text, "joint"):
            total += weights.sum(dim=1)
        allowed = len(text) - 1  # a softmax over text needs a key
        if self._edit.how == "redirect":
            total[:, self._magnets.to(text.device)] = -torch.inf
            allowed -= int(self._magnets.sum())
        top = total.topk(max(0, min(self._edit.strongest, allowed)), dim=1).indices
        return torch.zeros_like(total, dtype=torch.bool).scatter_(1, top, True)

    def _change(self, sinks: Tensor, edited: Tensor | None, call: AttentionCall, rows: Tensor) -> AttentionEdit:
        """The edit of some rows, of which those that are not `edited` stay as they are."""
        text = as_index(self._placement.text, rows.device)
        lowest = torch.finfo(torch.float32).min
        change = torch.zeros(len(sinks), 1, len(text), device=rows.device)
        if self._edit.how == "redirect":
            magnets = self._magnets.to(rows.device)
            logits = masked_logits(only_keys(call, text), 0, rows)  # [H, R, T]
            both, own = (
                torch.logsumexp(logits.masked_fill(~some, -torch.inf), dim=-1, keepdim=True)
                for some in ((sinks | magnets)[:, None], magnets)
            )
            change = (both - own) * magnets
        change = change.masked_fill(sinks[:, None], lowest)
        if edited is not None:
            change = change * edited[rows][:, None]
        bias = torch.zeros(1, *change.shape[:2], call.key_count, device=rows.device)
        return AttentionEdit(bias.index_copy(3, text, change[None]))


def _need_magnets(edit: SinkEdit, magnet: BoolArray) -> None:
    if edit.how == "redirect" and not magnet.any():
        raise ExpressionError(
            "attention to sinks was to be redirected onto magnets, but the expression holds every magnet, so none was "
            "appended: name others in the method's stage 'magnets', or set its skip_content: false"
        )


def _of_tokens(chosen: BoolArray, words: Sequence[Word], placement: Placement) -> BoolArray:
    """[T] tokens of the chosen words."""
    held = {position for word, own in zip(words, chosen, strict=True) if own for position in word.positions}
    return np.array([position in held for position in placement.word_positions])


def _of_words(values: FloatArray, words: Sequence[Word], placement: Placement) -> FloatArray:
    """Each word's mean over its tokens."""
    at = {position: i for i, position in enumerate(placement.word_positions)}
    return np.array([np.mean([values[at[p]] for p in word.positions]) for word in words], np.float32)
