"""Describe an attention call as the kernel receives it, and the edits that steering makes to it.

An edit is a function of row indices, so that the same edit applies to the row of a decode step, to some rows of a
prompt and, in chunks, to a whole prompt. A recorder of an edited call records the edited weights.

Shape letters: B batch, H query heads, G query heads per key head, Q queries of this call, K keys of this call, R chosen
rows, D query and key width, Dv value width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

WeightScale = tuple[Tensor, Tensor]
"""[H'] int64 query heads, and [B or 1, H', R or 1, K] float32 factors on their weights."""


@dataclass(frozen=True)
class AttentionEdit:
    """Change the attention weights of chosen rows.

    With S the scaled and masked logits, the edited weights are `weight_scale * softmax(S + logit_bias)`. All axes but
    the last may have length 1 and are then broadcast.

    Attributes:
        logit_bias: [B, H, R, K] float32, added to the logits before the softmax; None adds nothing.
        weight_scale: factors on the weights after the softmax, without renormalising; None scales nothing.
    """

    logit_bias: Tensor | None = None
    weight_scale: WeightScale | None = None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """Return the logit bias as kernels take it, finite and in `dtype`; it is kept for the next call."""
        if self.logit_bias is None:
            return None
        if dtype not in self._additive:
            # With -inf, a row without any visible key would be NaN.
            self._additive[dtype] = self.logit_bias.clamp(min=torch.finfo(dtype).min).to(dtype)
        return self._additive[dtype]

    def first_keys(self, count: int) -> AttentionEdit:
        """Return the edit restricted to the first `count` keys."""
        bias = None if self.logit_bias is None else self.logit_bias[..., :count]
        scale = None if self.weight_scale is None else (self.weight_scale[0], self.weight_scale[1][..., :count])
        return AttentionEdit(bias, scale)


@dataclass(frozen=True)
class RowEdit:
    """Edit the last queries of a call.

    Attributes:
        start: index of the first edited query; it and all later queries are edited.
        edit: the edit of all these rows, which may cover more keys than the call has, so that one object serves many
            decode steps; or a function from the call (with all earlier edits) and [R] int64 row indices to the edit of
            those rows.
    """

    start: int
    edit: AttentionEdit | Callable[[AttentionCall, Tensor], AttentionEdit]

    @property
    def fixed_bias(self) -> Tensor | None:
        """The logit bias, where that is the whole edit and is known before the call; else None."""
        edit = self.edit
        return edit.logit_bias if isinstance(edit, AttentionEdit) and edit.weight_scale is None else None


@dataclass(frozen=True)
class AttentionCall:
    """Hold one attention call as the kernel receives it, after rotary embedding and after the cache update.

    Attributes:
        query: [B, H, Q, D].
        key: [B, H/G, K, D]; G query heads share a key head.
        value: [B, H/G, K, Dv].
        mask: the mask of the model's mask builder: bool [B, 1 or H, Q, K] (true attends), additive float of that shape,
            [B, <=K] padding as flash kernels take (true is a token), or None.
        scale: factor on q k^T.
        causal: whether a query attends only to keys at or before its position, in addition to the mask.
        window: number of newest keys that a query attends to, itself included, where the kernel applies the window;
            None where the mask does or there is none.
        softcap: logits become softcap * tanh(logit / softcap); None applies no cap.
        bias: additive [B or 1, H or 1, Q, K] position bias, in addition to the mask.
        query_offset: sequence position of query 0.
        key_offset: sequence position of key 0; above 0 only where a sliding cache has dropped keys.
        dropout: probability with which the kernel drops weights.
        real: [B or 1, Q] bool, queries that are tokens and not padding, by the pass's mask; None where only the call's
            own mask tells.
        edits: edits of the weights, in order; empty for a call as the model makes it.
        log_sum_exp: [B, H, Q] float32, per query the logarithm of the sum of the exponentials of its logits, as the
            kernel computed it; None where the kernel returns none or no subscriber asks for it.
        sink_logits: [H], learned logits in every row's softmax beside those of its keys, so that the keys' weights sum
            to less than 1; None where there are none.
        options: values of the kernel's options that describe the call, always in the same order; empty where a backend
            tells none.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    bias: Tensor | None = None
    query_offset: int = 0
    key_offset: int = 0
    dropout: float = 0.0
    real: Tensor | None = None
    edits: tuple[RowEdit, ...] = ()
    log_sum_exp: Tensor | None = None
    sink_logits: Tensor | None = None
    options: tuple[object, ...] = ()

    @property
    def query_count(self) -> int:
        """Q, queries of this call."""
        return self.query.shape[2]

    @property
    def key_count(self) -> int:
        """K, keys of this call."""
        return self.key.shape[2]

    @property
    def head_count(self) -> int:
        """H, query heads."""
        return self.query.shape[1]

    def changed(self, **values: Any) -> AttentionCall:
        """Return a copy with other values; decode steps make several per layer, where `replace` is too slow."""
        copied = object.__new__(AttentionCall)
        copied.__dict__.update(self.__dict__, **values)
        return copied

    def keys(self, part: slice) -> AttentionCall:
        """Return the call restricted to some keys, without edits; its softmax is over these keys alone.

        Args:
            part: first key and key behind the last.
        """
        return replace(
            self,
            key=self.key[:, :, part],
            mask=None if self.mask is None else self.mask[..., part],
            bias=None if self.bias is None else self.bias[..., part],
            key_offset=self.key_offset + part.start,
            edits=(),
            log_sum_exp=None,
            sink_logits=None,
        )

    def heads(self, chosen: Tensor) -> AttentionCall:
        """Return the call restricted to some query heads, each with its own copy of its key head, without edits.

        Args:
            chosen: [H'] int64 query heads.
        """
        shared = chosen // (self.query.shape[1] // self.key.shape[1])
        return replace(
            self,
            query=self.query.index_select(1, chosen),
            key=self.key.index_select(1, shared),
            value=self.value.index_select(1, shared),
            mask=_some_heads(self.mask, chosen),
            bias=_some_heads(self.bias, chosen),
            edits=(),
            log_sum_exp=None if self.log_sum_exp is None else self.log_sum_exp.index_select(1, chosen),
            sink_logits=None if self.sink_logits is None else self.sink_logits.index_select(0, chosen),
        )


def _some_heads(mask: Tensor | None, chosen: Tensor) -> Tensor | None:
    return mask if mask is None or mask.ndim != 4 or mask.shape[1] == 1 else mask.index_select(1, chosen)
