from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grounding.attention import rows as rows_module
from grounding.attention.rows import (
    AttentionCall,
    attention_rows,
    iter_rows,
    keep_columns,
    real_queries,
    row_maxima,
)
from grounding.attention.sinks import sink_dimensions, sink_strength

B, H, KV, Q, D = 2, 6, 2, 9, 8
PADDING = torch.tensor([[True] * Q, [False] * 3 + [True] * (Q - 3)])
CAUSAL = torch.tril(torch.ones(Q, Q, dtype=torch.bool))
BOTH = (CAUSAL[None] & PADDING[:, None, :])[:, None]  # [B, 1, Q, K]


def make_call(dtype: torch.dtype = torch.float32, keys: int = Q, **options: object) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(B, H, Q, D, generator=generator).to(dtype)
    key = torch.randn(B, KV, keys, D, generator=generator).to(dtype)
    value = torch.randn(B, KV, keys, D, generator=generator).to(dtype)
    base = AttentionCall(query, key, value, mask=None, scale=D**-0.5, causal=False)
    return replace(base, **options)  # type: ignore[arg-type]


def dense(call: AttentionCall, allowed: torch.Tensor | None, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The whole matrix, the plain way, in float64."""
    key = call.key.double().repeat_interleave(H // KV, dim=1)
    logits = call.query.double() @ key.transpose(-1, -2) * call.scale
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if bias is not None:
        logits = logits + bias.double()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.softmax(-1)


BIAS = torch.linspace(-2, 2, H * Q * Q).reshape(1, H, Q, Q)
WINDOW = CAUSAL & ~torch.tril(torch.ones(Q, Q, dtype=torch.bool), diagonal=-4)
FLOAT_MASK = torch.where(BOTH, 0.0, torch.finfo(torch.float32).min)
FORMS = {
    "bool mask": ({"mask": BOTH}, BOTH, None),
    "float mask": ({"mask": FLOAT_MASK}, BOTH, None),
    "float mask of minus infinity": ({"mask": torch.where(BOTH, 0.0, -torch.inf)}, BOTH, None),
    "bool mask per head": ({"mask": BOTH.expand(B, H, Q, Q)}, BOTH, None),
    "no mask, causal": ({"causal": True}, CAUSAL, None),
    "no mask, everything seen": ({}, None, None),
    "2-D padding, causal": ({"mask": PADDING, "causal": True}, BOTH, None),
    "2-D padding as integers": ({"mask": PADDING.long(), "causal": True}, BOTH, None),
    "window": ({"causal": True, "window": 4}, WINDOW, None),
    "soft cap": ({"causal": True, "softcap": 1.5}, CAUSAL, None),
    "position bias": ({"causal": True, "bias": BIAS}, CAUSAL, BIAS),
    "mask and bias": ({"mask": BOTH, "bias": BIAS}, BOTH, BIAS),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_equal_the_dense_matrix_for_every_form_of_mask(form: str) -> None:
    options, allowed, bias = FORMS[form]
    call = make_call(**options)
    expected = dense(call, allowed, bias)
    index = torch.tensor([8, 3, 5])
    for element in range(B):
        weights = attention_rows(call, element, index)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.double(), expected[element][:, index], atol=1e-6, rtol=0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(H, 3), atol=1e-6, rtol=0)


def test_a_decode_step_sees_every_key() -> None:
    call = make_call()
    step = replace(call, query=call.query[:, :, -1:], query_offset=Q - 1)
    expected = dense(call, None)[1][:, -1:]
    torch.testing.assert_close(attention_rows(step, 1, torch.tensor([0])).double(), expected, atol=1e-6, rtol=0)


def test_causality_follows_positions_not_indices() -> None:
    """A piece of the prompt in the middle: its queries are 4..8, a sliding cache has dropped keys 0 and 1."""
    call = make_call(causal=True)
    piece = replace(
        call,
        query=call.query[:, :, 4:],
        key=call.key[:, :, 2:],
        value=call.value[:, :, 2:],
        query_offset=4,
        key_offset=2,
    )
    expected = dense(replace(call, key=call.key), CAUSAL & (torch.arange(Q) >= 2))[0][:, [5]][..., 2:]
    torch.testing.assert_close(attention_rows(piece, 0, torch.tensor([1])).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keys_are_upcast_in_pieces(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "UPCAST_KEYS", 4)
    call = make_call(dtype, mask=BOTH)
    weights = attention_rows(call, 1, torch.tensor([8, 4]))
    # The numbers are those of the half-precision inputs, not a half-precision calculation.
    torch.testing.assert_close(weights.double(), dense(call, BOTH)[1][:, [8, 4]], atol=1e-6, rtol=0)


def test_chunks_hold_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WORKING_BYTES", H * Q * 4 * 3 * 2)
    call, index = make_call(causal=True), torch.tensor([7, 0, 8, 2, 4])
    parts = list(iter_rows(call, 0, index))
    assert [weights.shape[1] for _, weights in parts] == [2, 2, 1]
    whole = attention_rows(call, 0, index)
    torch.testing.assert_close(torch.cat([weights for _, weights in parts], dim=1), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [BOTH, FLOAT_MASK, torch.where(BOTH, 0.0, -torch.inf), PADDING], ids=str)
def test_padding_is_read_off_the_mask(mask: torch.Tensor) -> None:
    call = make_call(mask=mask)
    for element in range(B):
        real = real_queries(call, element)
        assert real is not None
        assert real.tolist() == PADDING[element].tolist()
    assert real_queries(make_call(), 0) is None


def test_columns_are_positions() -> None:
    weights = torch.arange(2 * 1 * 4, dtype=torch.float32).reshape(2, 1, 4) + 1
    picked = keep_columns(weights, torch.tensor([5, 2, 1, 6]), key_offset=2, length=6)
    assert picked.tolist() == [[[4, 1, 0, 0]], [[8, 5, 0, 0]]]
    assert keep_columns(weights, None, key_offset=2, length=6).tolist() == [[[0, 0, 1, 2, 3, 4]], [[0, 0, 5, 6, 7, 8]]]
    # A static cache has room behind the newest position.
    assert keep_columns(weights, None, key_offset=0, length=3).shape == (2, 1, 3)


def test_row_maxima_leave_padding_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WORKING_BYTES", H * Q * 4 * 3 * 2)
    call = make_call(mask=BOTH)
    image = torch.tensor([4, 5])
    for element in range(B):
        sums, count = row_maxima(call, element, {"max_all": None, "max_image": image})
        real = PADDING[element]
        expected = dense(call, BOTH)[element][:, real]
        assert count == int(real.sum())
        torch.testing.assert_close(sums["max_all"].double(), expected.amax(-1).sum(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(sums["max_image"].double(), expected[..., image].amax(-1).sum(-1), atol=1e-5, rtol=0)


def test_sink_strength_is_the_papers_phi() -> None:
    hidden = torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    dims = sink_dimensions(hidden, first=0, count=1)
    assert dims.tolist() == [1]
    # Row 0: |-4| / sqrt(25 / 4); row 1: 1 / sqrt(1).
    torch.testing.assert_close(sink_strength(hidden, dims), torch.tensor([1.6, 1.0]), atol=1e-5, rtol=0)
    both = sink_strength(hidden, torch.tensor([0, 2]))
    torch.testing.assert_close(both, torch.tensor([1.2, 1.0]), atol=1e-5, rtol=0)
    assert sink_dimensions(hidden, 0, count=99).shape == (4,)
