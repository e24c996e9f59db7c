from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grounding.attention import rows as rows_module
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.edits import run_edited
from grounding.attention.rows import attention_rows, combined_edit


@st.composite
def calls(draw: st.DrawFn) -> AttentionCall:
    """A call of any shape, mask and place in the sequence."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, shared, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries, past, width = draw(st.integers(1, 6)), draw(st.integers(0, 4)), draw(st.sampled_from([4, 8]))
    keys = queries + past
    query = torch.randn(batch, shared * group, queries, width, generator=generator)
    key, value = (torch.randn(batch, shared, keys, width, generator=generator) for _ in range(2))
    causal = torch.ones(queries, keys, dtype=torch.bool).tril(past)
    mask: torch.Tensor | None = None
    form = draw(st.sampled_from(["none", "bool", "float", "padding"]))
    if form in ("bool", "float"):
        mask = (causal & (torch.rand(batch, 1, queries, keys, generator=generator) > 0.3)) | torch.eye(
            queries, keys, dtype=torch.bool
        ).roll(past, 1)
        mask = mask if form == "bool" else torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    elif form == "padding":
        mask = torch.ones(batch, keys, dtype=torch.bool)
        mask[0, : draw(st.integers(0, past))] = False
    return AttentionCall(
        query,
        key,
        value,
        mask,
        scale=draw(st.sampled_from([0.1, width**-0.5, 1.0])),
        causal=form in ("none", "padding"),
        window=draw(st.sampled_from([None, 2, 3])) if form in ("none", "padding") else None,
        softcap=draw(st.sampled_from([None, 5.0])),
        query_offset=past,
    )


@st.composite
def edits(draw: st.DrawFn, call: AttentionCall) -> RowEdit:
    """An edit of a call's last rows, given at once or row by row."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    start = draw(st.integers(0, call.query_count - 1))
    bias = torch.randn(1, call.head_count, 1, call.key_count, generator=generator)
    heads = torch.tensor(sorted(draw(st.sets(st.integers(0, call.head_count - 1), min_size=1))))
    scale = torch.rand(1, len(heads), 1, call.key_count, generator=generator) * 2
    edit = AttentionEdit(
        logit_bias=bias if draw(st.booleans()) else None, weight_scale=(heads, scale) if draw(st.booleans()) else None
    )
    return RowEdit(start, edit if draw(st.booleans()) else lambda call, rows: edit)


def dense(call: AttentionCall, element: int, steps: tuple[RowEdit, ...] = ()) -> torch.Tensor:
    """[H, Q, K] weights by the formula, in float64, edit after edit."""
    key = call.key[element].double().repeat_interleave(call.head_count // call.key.shape[1], dim=0)
    logits = call.query[element].double() @ key.transpose(-1, -2) * call.scale
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    query = torch.arange(call.query_count)[:, None] + call.query_offset
    at = torch.arange(call.key_count)[None]
    allowed = torch.ones(call.query_count, call.key_count, dtype=torch.bool)
    if call.causal:
        allowed = allowed & (at <= query)
    if call.window is not None:
        allowed = allowed & (query - at < call.window)
    if call.mask is not None and call.mask.ndim == 2:
        allowed = allowed & call.mask[element]
    elif call.mask is not None and call.mask.dtype == torch.bool:
        allowed = allowed & call.mask[element, 0]
    elif call.mask is not None:
        allowed = allowed & (call.mask[element, 0] == 0)
    factor = torch.ones(call.head_count, call.query_count, call.key_count, dtype=torch.float64)
    for step in steps:
        edit = step.edit if isinstance(step.edit, AttentionEdit) else step.edit(call, torch.arange(call.query_count))
        if edit.logit_bias is not None:
            logits[:, step.start :] += edit.logit_bias[0].double()
        if edit.weight_scale is not None:
            heads, scale = edit.weight_scale
            for index, head in enumerate(heads.tolist()):
                factor[head, step.start :] *= scale[0, index].double()
    weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
    return weights.nan_to_num() * factor


def sees_a_key(call: AttentionCall, element: int) -> torch.Tensor:
    return dense(call, element).sum(-1)[0] > 0.5


@given(st.data())
def test_rows_equal_the_dense_formula(data: st.DataObject) -> None:
    call = data.draw(calls())
    for element in range(len(call.query)):
        rows = sees_a_key(call, element).nonzero()[:, 0]
        found = attention_rows(call, element, rows)
        torch.testing.assert_close(found.double(), dense(call, element)[:, rows], atol=2e-6, rtol=0)


@given(st.data())
def test_edits_compose_in_order(data: st.DataObject) -> None:
    call = data.draw(calls())
    steps = tuple(data.draw(edits(call)) for _ in range(data.draw(st.integers(1, 3))))
    edited = AttentionCall(**{**vars(call), "edits": steps})
    for element in range(len(call.query)):
        rows = sees_a_key(call, element).nonzero()[:, 0]
        found = attention_rows(edited, element, rows)
        torch.testing.assert_close(found.double(), dense(call, element, steps)[:, rows], atol=4e-6, rtol=0)


def plain_kernel(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
    groups = query.shape[1] // key.shape[1]
    logits = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) * options["scaling"]
    if options.get("softcap") is not None:
        logits = options["softcap"] * torch.tanh(logits / options["softcap"])
    weights = (logits if mask is None else logits + mask).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), None


@given(st.data())
def test_an_edited_call_is_the_formula_whatever_the_chunks(data: st.DataObject) -> None:
    call = data.draw(calls())
    step = RowEdit(0, data.draw(edits(call)).edit)
    edited = AttentionCall(**{**vars(call), "edits": (step,)})
    options = {"scaling": call.scale, "softcap": call.softcap}
    whole = run_edited(plain_kernel, torch.nn.Identity(), edited, call.mask, (), options)[0]  # [B, Q, H, Dv]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "WORKING_BYTES", 1)  # one row at a time
        pieces = run_edited(plain_kernel, torch.nn.Identity(), edited, call.mask, (), options)[0]
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)
    for element in range(len(call.query)):
        rows = sees_a_key(call, element).nonzero()[:, 0]
        value = call.value[element].double().repeat_interleave(call.head_count // call.value.shape[1], dim=0)
        expected = (dense(call, element, (step,)) @ value).transpose(0, 1)
        torch.testing.assert_close(whole[element, rows].double(), expected[rows], atol=1e-5, rtol=1e-5)


def test_rows_before_an_edits_start_stay() -> None:
    call = AttentionCall(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), None, 1.0, True)
    edited = AttentionCall(**{**vars(call), "edits": (RowEdit(2, AttentionEdit(torch.tensor([1.0, 2.0, 3.0]))),)})
    bias = combined_edit(edited, torch.arange(3)).logit_bias
    assert bias is not None
    assert bias.broadcast_to(1, 1, 3, 3)[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]


STEP_FORMS: dict[str, Any] = {
    "none": lambda keys: {},
    "bool": lambda keys: {"mask": torch.arange(keys).ge(torch.tensor([[0], [3]]))[:, None, None]},
    "additive": lambda keys: {"mask": torch.arange(keys).lt(3).float().mul(-1e9)[None, None, None]},
    "padding": lambda keys: {"mask": torch.arange(keys).ge(torch.tensor([[0], [3]])), "causal": True},
    "window": lambda keys: {"window": 5, "causal": True},
    "bias": lambda keys: {"bias": torch.linspace(-1, 1, 4 * keys).reshape(1, 4, 1, keys)},
    "static cache": lambda keys: {"causal": True, "query_offset": keys - 3},
}


@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_known_before_the_call_serves_steps_of_any_length(form: str, dtype: torch.dtype) -> None:
    """One object that covers later keys too equals an edit that is computed for each step."""
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(1, 4, 1, 16, generator=generator)
    bias[0, 1, 0, 5] = -torch.inf  # a gain of 0
    fixed = RowEdit(0, AttentionEdit(bias))
    for keys in (9, 10, 13):
        query = torch.randn(2, 4, 1, 8, generator=generator).to(dtype)
        key, value = (torch.randn(2, 2, keys, 8, generator=generator).to(dtype) for _ in range(2))
        options = {"query_offset": keys - 1, **STEP_FORMS[form](keys)}
        call = AttentionCall(query, key, value, options.pop("mask", None), 0.3, options.pop("causal", False), **options)
        computed = RowEdit(0, lambda earlier, rows, keys=keys: AttentionEdit(bias[..., :keys]))
        found, expected = (
            run_edited(plain_kernel, torch.nn.Identity(), call.changed(edits=(edit,)), call.mask, (), {"scaling": 0.3})[
                0
            ]
            for edit in (fixed, computed)
        )
        assert torch.equal(found, expected)
        rows = [attention_rows(call.changed(edits=(edit,)), 1, torch.zeros(1).long()) for edit in (fixed, computed)]
        assert torch.equal(*rows)
