"""Weights of many queries on few keys, against the formula in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.columns import Order, iter_columns, only_keys
from grounding.compat import attention_with_lse
from grounding.errors import RecordingError

B, H, Q, K, D = 2, 4, 9, 11, 8


def made_call(mask: Tensor | None = None, seed: int = 0) -> AttentionCall:
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, n, D, generator=random) for n in (Q, K, K))
    return AttentionCall(q, k, v, mask, D**-0.5, causal=False)


def explicit(call: AttentionCall, element: int, rows: Tensor, columns: Tensor, order: Order) -> Tensor:
    """The formula of `grounding.attention.columns`, written out in float64."""
    logits = call.query[element].double() @ call.key[element].double().transpose(-1, -2) * call.scale
    mask = call.mask
    if mask is not None and mask.ndim == 2:
        logits = logits.masked_fill(~mask[element].bool(), -torch.inf)
    elif mask is not None:
        mask = mask[min(element, mask.shape[0] - 1)]
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    logits = logits[:, rows]
    if order == "text":
        return logits[..., columns].softmax(-1)
    if order == "text-of-mean-logit":
        return logits[..., columns].mean(0, keepdim=True).softmax(-1)
    joint = logits.softmax(-1)[..., columns]
    if order == "joint":
        return joint
    mean = joint.mean(0, keepdim=True)
    return mean / mean.sum(-1, keepdim=True)


def computed(call: AttentionCall, element: int, rows: Tensor, columns: Tensor, order: Order) -> Tensor:
    return torch.cat([weights for _, weights in iter_columns(call, element, rows, columns, order)], dim=1)


MASKS = {
    "none": None,
    "padding": torch.arange(K)[None] < torch.tensor([[K], [8]]),
    "bool": torch.ones(1, 1, 1, K, dtype=torch.bool).index_fill(3, torch.tensor([2, 10]), False),
    "additive": torch.randn(B, H, Q, K, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("order", ["text", "joint", "text-of-mean", "text-of-mean-logit"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_every_order_and_mask_equals_the_formula(
    order: Order, mask: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk is not None:
        monkeypatch.setattr("grounding.attention.rows.WORKING_BYTES", chunk)
    call, rows, columns = made_call(MASKS[mask]), torch.tensor([8, 0, 3]), torch.tensor([1, 7, 2, 4])
    for element in range(B):
        expected = explicit(call, element, rows, columns, order)
        torch.testing.assert_close(computed(call, element, rows, columns, order), expected.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
def test_columns_from_the_kernels_log_sum_exp_equal_whole_rows(mask: str) -> None:
    call = made_call(MASKS[mask])
    found = attention_with_lse(call.query, call.key, call.value, call.mask, scale=call.scale)
    assert found is not None
    given = replace(call, log_sum_exp=found[1])
    rows, columns = torch.arange(Q), torch.tensor([0, 5, 10])
    for element in range(B):
        expected = explicit(call, element, rows, columns, "joint").float()
        torch.testing.assert_close(computed(given, element, rows, columns, "joint"), expected, atol=1e-6, rtol=0)


def test_a_log_sum_exp_of_other_logits_is_not_used() -> None:
    call = made_call()
    wrong = replace(call, log_sum_exp=torch.zeros(B, H, Q))
    rows, columns = torch.arange(Q), torch.tensor([0, 5])
    torch.testing.assert_close(
        computed(wrong, 0, rows, columns, "joint"), explicit(call, 0, rows, columns, "joint").float(), atol=1e-6, rtol=0
    )


def test_restricted_softmax_is_the_joint_one_renormalised_per_head_and_differs_after_the_mean() -> None:
    call, rows, columns = made_call(), torch.arange(Q), torch.tensor([1, 2, 3])
    joint = computed(call, 0, rows, columns, "joint")
    text = computed(call, 0, rows, columns, "text")
    torch.testing.assert_close(joint / joint.sum(-1, keepdim=True), text, atol=1e-6, rtol=0)
    of_mean = computed(call, 0, rows, columns, "text-of-mean")
    assert (text.mean(0) - of_mean[0]).abs().max() > 1e-3


def test_shared_key_heads_are_not_repeated() -> None:
    call = made_call()
    shared = replace(call, key=call.key[:, :2], value=call.value[:, :2])
    whole = replace(call, key=shared.key.repeat_interleave(2, 1), value=shared.value.repeat_interleave(2, 1))
    rows, columns = torch.arange(Q), torch.tensor([0, 3])
    torch.testing.assert_close(
        computed(shared, 1, rows, columns, "text"), computed(whole, 1, rows, columns, "text"), atol=1e-6, rtol=0
    )


def test_a_causal_call_has_no_choice_of_keys() -> None:
    with pytest.raises(RecordingError, match="causal"):
        only_keys(replace(made_call(), causal=True), torch.tensor([0]))
