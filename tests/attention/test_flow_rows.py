"""Rows of the attention flow, against the N x N matrices of the formula in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from explicit_flow import DECAF, VLSAM, explicit_flow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grounding.attention import flow as flow_module
from grounding.attention.call import AttentionCall
from grounding.attention.flow import flow_rows
from grounding.attention_flow import AttentionFlow
from grounding.errors import RecordingError

RULES = [
    AttentionFlow(weights, relative, rollout, residual, regulariser)
    for weights, relative, rollout, residual, regulariser in itertools.product(
        ("mean", "max_all", "max_image"),
        (False, True),
        ("sum", "product"),
        (None, 0.5),
        ("none", "layer", "rollout", "end"),
    )
]


def softmax_of(call: AttentionCall, element: int, length: int) -> Tensor:
    """S [H, Q, N] of one call in float64, all masks written out."""
    group = call.head_count // call.key.shape[1]
    key = call.key[element].double().repeat_interleave(group, dim=0)
    logits = call.query[element].double() @ key.transpose(-1, -2) * call.scale
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if call.bias is not None:
        logits = logits + call.bias[min(element, len(call.bias) - 1)].double()
    query = torch.arange(call.query_count)[:, None] + call.query_offset
    position = torch.arange(call.key_count)[None] + call.key_offset
    visible = torch.ones(call.query_count, call.key_count, dtype=torch.bool)
    if call.causal:
        visible &= position <= query
    if call.window is not None:
        visible &= query - position < call.window
    if call.mask is not None and call.mask.ndim == 2:
        visible &= call.mask[element].bool()
    elif call.mask is not None and call.mask.dtype == torch.bool:
        visible = visible & call.mask[min(element, len(call.mask) - 1)]
    elif call.mask is not None:
        logits = logits + call.mask[min(element, len(call.mask) - 1)].double()
    weights = logits.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
    whole = torch.zeros(*weights.shape[:2], length, dtype=torch.float64)
    whole[..., call.key_offset : call.key_offset + call.key_count] = weights
    return whole


def made_calls(
    layers: int, batch: int, heads: int, shared: int, length: int, width: int = 8, seed: int = 0, **options: Any
) -> list[list[AttentionCall]]:
    random = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(layers):
        query = 2 * torch.randn(batch, heads, length, width, generator=random)
        key = torch.randn(batch, shared, length, width, generator=random)
        made.append(
            [AttentionCall(query, key, key[..., :0], **{"mask": None, "causal": True, **options}, scale=width**-0.5)]
        )
    return made


def check(
    layers: Sequence[Sequence[AttentionCall]],
    rows: Sequence[Sequence[int]],
    rule: AttentionFlow,
    real: Tensor | None = None,
    image: Sequence[Tensor] | None = None,
    length: int | None = None,
) -> None:
    length = length or layers[0][0].query_count
    at = [torch.tensor(list(own)) for own in rows]
    real = torch.ones(len(rows), length, dtype=torch.bool) if real is None else real
    found = flow_rows(reversed(layers), at, length, rule, image)
    for element, own in enumerate(found):
        weights = [torch.cat([softmax_of(call, element, length) for call in calls], dim=1) for calls in layers]
        expected = explicit_flow(weights, rule, real[element], None if image is None else image[element])
        torch.testing.assert_close(own.double(), expected[at[element]], atol=2e-6, rtol=2e-5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, of five queries, in sequences of a test's length."""
    monkeypatch.setattr(flow_module, "MOST_ROWS", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, vars(rule).values())))
def test_every_variant_is_the_product_of_matrices(rule: AttentionFlow) -> None:
    layers = made_calls(3, 2, 4, 2, 17)
    check(layers, ((16, 3), (9, 10, 0)), rule, image=(torch.arange(2, 8), torch.tensor([1, 4, 9])))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2),
    shared=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.integers(1, 40),
    layers=st.integers(1, 4),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_size(
    batch: int, shared: int, group: int, length: int, layers: int, rule: AttentionFlow, seed: int, data: st.DataObject
) -> None:
    rows = [data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=3)) for _ in range(batch)]
    image = [torch.tensor(sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))) for _ in range(batch)]
    check(made_calls(layers, batch, shared * group, shared, length, seed=seed), rows, rule, image=image)


def padded(batch: int, length: int, left: Sequence[int]) -> Tensor:
    return torch.arange(length)[None] >= torch.tensor(list(left))[:, None]


MASKS = ("flash", "bool", "additive", "image sees all of itself", "per head")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "rule", [VLSAM, DECAF, replace(VLSAM, regulariser="end"), replace(VLSAM, regulariser="rollout")]
)
@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_left_padded_batches(kind: str, rule: AttentionFlow) -> None:
    n, real = 19, padded(2, 19, (0, 7))
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    whole = causal & real[:, None, None] & real[:, None, :, None]
    options: dict[str, Any] = {"mask": whole, "causal": False}
    if kind == "flash":
        options = {"mask": real.long(), "causal": True}
    elif kind == "additive":
        options["mask"] = torch.zeros(2, 1, n, n).masked_fill(~whole, torch.finfo(torch.float32).min)
    elif kind == "image sees all of itself":
        options["mask"] = whole.clone()
        options["mask"][:, :, 8:14, 8:14] = True
    elif kind == "per head":
        options["mask"] = whole.expand(2, 4, n, n).clone()
        options["mask"][:, 1, :, 9] &= torch.arange(n) == 9
    image = (torch.arange(8, 14),) * 2
    layers = [[replace(call, real=real)] for (call,) in made_calls(3, 2, 4, 2, n, **options)]
    check(layers, ((18, 5), (18, 7)), rule, real, image)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", [VLSAM, DECAF])
def test_windows_caps_and_position_bias(rule: AttentionFlow) -> None:
    image = (torch.arange(2, 9),)
    check(made_calls(3, 1, 4, 2, 23, window=6), ((22, 8),), rule, image=image)
    check(made_calls(3, 1, 4, 2, 23, softcap=0.7), ((22, 8),), rule, image=image)
    bias = torch.randn(1, 4, 23, 23, generator=torch.Generator().manual_seed(5))
    check(made_calls(3, 1, 4, 2, 23, bias=bias), ((22, 8),), rule, image=image)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", [VLSAM, DECAF, replace(VLSAM, regulariser="rollout")])
def test_pieces_of_a_prompt_and_decode_steps_are_one_sequence(rule: AttentionFlow) -> None:
    whole, image = made_calls(3, 1, 4, 2, 20), (torch.arange(3, 9),)
    cut = [
        [
            replace(call, query=call.query[:, :, a:b], key=call.key[:, :, :b], query_offset=a)
            for a, b in itertools.pairwise((0, 7, 16, 17, 18, 19, 20))
        ]
        for (call,) in whole
    ]
    check(cut, ((19, 17, 4),), rule, image=image, length=20)
    rows = [torch.tensor([19, 4])]
    torch.testing.assert_close(
        flow_rows(reversed(cut), rows, 20, rule, image)[0], flow_rows(reversed(whole), rows, 20, rule, image)[0]
    )


def test_keys_that_a_sliding_cache_has_dropped() -> None:
    (call,) = made_calls(1, 1, 4, 2, 12, window=4)[0]
    pieces = [
        replace(call, query=call.query[:, :, :9], key=call.key[:, :, :9]),
        replace(call, query=call.query[:, :, 9:], key=call.key[:, :, 6:], query_offset=9, key_offset=6),
    ]
    check([pieces], ((11, 8),), VLSAM, length=12)


def test_the_first_token_counts_least() -> None:
    """Under equal attention without the factor, early columns win; with it, they do not."""
    query = torch.zeros(1, 1, 30, 4)
    layers = [[AttentionCall(query, query, query[..., :0], None, 1.0, True)] for _ in range(8)]
    rows = [torch.tensor([29])]
    plain = flow_rows(layers, rows, 30, replace(VLSAM, regulariser="none"))[0][0]
    held = flow_rows(layers, rows, 30, VLSAM)[0][0]
    assert int(plain[:29].argmax()) == 0
    assert int(held[:29].argmin()) == 0


def test_half_precision_queries_and_keys() -> None:
    layers = made_calls(2, 1, 4, 2, 21)
    halves = [[replace(c, query=c.query.bfloat16(), key=c.key.bfloat16())] for (c,) in layers]
    same = [[replace(c, query=c.query.float(), key=c.key.float())] for (c,) in halves]
    rows = [torch.tensor([20])]
    assert torch.equal(flow_rows(reversed(halves), rows, 21, VLSAM)[0], flow_rows(reversed(same), rows, 21, VLSAM)[0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"head_weights": "max"}, "use 'mean', 'max_all', 'max_image'"), ({"residual": 1.5}, "expected a weight in")],
)
def test_wrong_rules_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordingError, match=said):
        AttentionFlow(**wrong)
