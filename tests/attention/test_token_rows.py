from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grounding.attention import token_rows as token_rows_module
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.request import RowRequest
from grounding.attention.rows import attention_rows, keep_columns
from grounding.attention.token_rows import TokenRows
from grounding.record_spec import RecordSpec

B, H, KV, K, D, LAYERS = 2, 6, 2, 11, 8, 5
PADDING = torch.tensor([[True] * K, [False] * 3 + [True] * (K - 3)])
LOWEST = torch.finfo(torch.float32).min
ROW = torch.zeros(1, dtype=torch.int64)


def token_call(layer: int, keys: int = K, dtype: torch.dtype = torch.float32, **options: Any) -> AttentionCall:
    generator = torch.Generator().manual_seed(layer)
    query = torch.randn(B, H, 1, D, generator=generator).to(dtype)
    key, value = (torch.randn(B, KV, keys, D, generator=generator).to(dtype) for _ in range(2))
    base = AttentionCall(query, key, value, mask=None, scale=D**-0.5, causal=False)
    return replace(base, query_offset=K - 1, key_offset=max(K - keys, 0), **options)


def biased(layer: int) -> RowEdit:
    return RowEdit(0, AttentionEdit(logit_bias=torch.linspace(-1, layer, H * K).reshape(1, H, 1, K)))


FORMS: dict[str, list[AttentionCall]] = {
    "plain": [token_call(i) for i in range(LAYERS)],
    "one bool mask": [token_call(i, mask=PADDING[:, None, None]) for i in range(LAYERS)],
    "float masks of minus infinity": [
        token_call(i, mask=torch.where(PADDING, 0.0, -torch.inf)[:, None, None]) for i in range(LAYERS)
    ],
    "2-D padding as flash kernels take it": [token_call(i, mask=PADDING, causal=True) for i in range(LAYERS)],
    "some layers windowed": [token_call(i, window=4 if i % 2 else None, causal=True) for i in range(LAYERS)],
    "some caches have dropped keys": [
        token_call(i, *((5,) if i in (1, 2) else ()), mask=PADDING[:, None, None, -(5 if i in (1, 2) else K) :])
        for i in range(LAYERS)
    ],
    "static cache": [
        token_call(i, K + 3, mask=torch.arange(K + 3)[None, None, None].lt(K).expand(B, 1, 1, -1))
        for i in range(LAYERS)
    ],
    "static cache without a mask": [token_call(i, K + 3, causal=True) for i in range(LAYERS)],
    "soft cap": [token_call(i, softcap=0.7) for i in range(LAYERS)],
    "position bias": [token_call(i, bias=torch.linspace(-1, i, H * K).reshape(1, H, 1, K)) for i in range(LAYERS)],
    "logit bias in some layers": [token_call(i, edits=(biased(i),) if i > 1 else ()) for i in range(LAYERS)],
    "scales differ": [token_call(i, mask=PADDING[:, None, None], scale=0.2 * (i + 1)) for i in range(LAYERS)],
    "bfloat16": [token_call(i, dtype=torch.bfloat16) for i in range(LAYERS)],
}
KEPT = {
    "all columns": RowRequest(((0,),) * B, decode=True),
    "columns": RowRequest(((0,),) * B, keys=((8, 3, 4), (5, 9)), decode=True),
    "heads and columns": RowRequest(((0,),) * B, keys=((8, 3), (5, 9)), decode=True, spec=RecordSpec(heads=(4, 1))),
    "mean of heads": RowRequest(((0,),) * B, decode=True, spec=RecordSpec(reduce="heads")),
    "mean of layers": RowRequest(((0,),) * B, keys=((8,), (5, 9)), decode=True, spec=RecordSpec(reduce="layers")),
    "mean of both": RowRequest(((0,),) * B, keys=((8,), (5, 9)), decode=True, spec=RecordSpec(reduce="both")),
}


def row_by_row(request: RowRequest, calls: list[AttentionCall], element: int) -> Tensor:
    """The same rows by the general formula, layer by layer: [L, H, 1, C]."""
    columns = None if request.keys is None else torch.tensor(request.keys[element])
    rows = torch.stack(
        [keep_columns(attention_rows(call, element, ROW), columns, call.key_offset, K) for call in calls]
    )
    if request.spec.heads is not None:
        rows = rows[:, list(request.spec.heads)]
    rows = rows.mean(1, keepdim=True) if request.reduces_heads else rows
    return rows.mean(0, keepdim=True) if request.reduces_layers else rows


def gathered(request: RowRequest, calls: list[AttentionCall], *, together: bool) -> dict[int, Tensor]:
    """Rows as `TokenRows` hands them over; parts of a mean over layers add up."""
    found: dict[int, dict[int, Tensor]] = {element: {} for element in range(B)}

    def keep(layers: tuple[int, ...], element: int, rows: Tensor) -> None:
        if request.reduces_layers:
            assert rows.shape[0] == 1
            found[element][0] = found[element].get(0, torch.zeros(())) + rows[0]
        else:
            assert not found[element].keys() & set(layers)
            found[element] |= dict(zip(layers, rows, strict=True))

    token = TokenRows(request, LAYERS, keep, together)
    for _ in range(2):  # nothing of a pass is left for the next
        for rows in found.values():
            rows.clear()
        token.start(K)
        assert all(token.add(layer, call) for layer, call in enumerate(calls))
        token.finish()
    return {element: torch.stack([rows[layer] for layer in sorted(rows)]) for element, rows in found.items()}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("form", FORMS)
def test_rows_equal_those_of_the_general_formula(form: str, kept: str, together: bool) -> None:
    found = gathered(KEPT[kept], FORMS[form], together=together)
    for element in range(B):
        expected = row_by_row(KEPT[kept], FORMS[form], element)
        torch.testing.assert_close(found[element], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("together", [False, True])
def test_a_small_working_memory_splits_the_layers(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    size = B * H * K * 4 * 2 + (FORMS["plain"][0].key.nbytes if together else 0)
    monkeypatch.setattr(token_rows_module, "WORKING_BYTES", 2 * size)
    for kept in ("all columns", "mean of both"):
        found = gathered(KEPT[kept], FORMS["one bool mask"], together=together)
        torch.testing.assert_close(found[1], row_by_row(KEPT[kept], FORMS["one bool mask"], 1), atol=1e-6, rtol=0)


def test_scaled_weights_are_left_to_the_general_way() -> None:
    scaled = RowEdit(0, AttentionEdit(weight_scale=(torch.tensor([1]), torch.full((1, 1, 1, K), 2.0))))
    token = TokenRows(KEPT["all columns"], 1, lambda *_: pytest.fail("no row was kept"))
    token.start(K)
    assert not token.add(0, token_call(0, edits=(scaled,)))
    token.finish()
