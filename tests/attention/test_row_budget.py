from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from grounding.attention import RowRequest
from grounding.attention.budget import DecoderShape, cheapest_change, check_budget, estimate, readable
from grounding.attention_flow import AttentionFlow
from grounding.errors import BudgetError
from grounding.record_spec import RecordSpec

SHAPE = DecoderShape(layers=32, heads=32, kv_heads=8, head_width=128)
LENGTH = 2048
MANY = RowRequest((tuple(range(1000, 1200)),))  # 200 rows


def with_spec(request: RowRequest, **options: Any) -> RowRequest:
    return replace(request, spec=replace(request.spec, **options))


def test_kept_bytes_are_layers_heads_rows_columns() -> None:
    assert estimate(MANY, SHAPE, LENGTH).kept_bytes == 32 * 32 * 200 * LENGTH * 4
    keys = ((1, 2, 3),)
    assert estimate(replace(MANY, keys=keys), SHAPE, LENGTH).kept_bytes == 32 * 32 * 200 * 3 * 4
    assert (
        estimate(with_spec(replace(MANY, keys=keys), layers=(4,), heads=(1, 2)), SHAPE, LENGTH).kept_bytes
        == 2 * 200 * 3 * 4
    )
    assert estimate(with_spec(replace(MANY, keys=keys), reduce="heads"), SHAPE, LENGTH).kept_bytes == 32 * 200 * 3 * 4
    assert estimate(with_spec(replace(MANY, keys=keys), reduce="both"), SHAPE, LENGTH).kept_bytes == 200 * 3 * 4


def test_decode_statistics_and_sinks_count() -> None:
    base = replace(MANY, keys=((1, 2, 3),))
    kept = estimate(base, SHAPE, LENGTH).kept_bytes
    decode = estimate(replace(base, decode=True, decode_steps=10), SHAPE, LENGTH)
    assert decode.kept_bytes == kept + 10 * 32 * 32 * 3 * 4
    assert estimate(with_spec(base, head_statistics=("max_all",)), SHAPE, LENGTH).kept_bytes == kept + 32 * 32 * 4
    assert estimate(with_spec(base, residual_sinks=True), SHAPE, LENGTH).kept_bytes == kept + 32 * 3 * 4


def test_working_bytes_stay_bounded_however_many_rows() -> None:
    few, all_rows = (estimate(RowRequest((tuple(range(n)),)), SHAPE, LENGTH).working_bytes for n in (1, LENGTH))
    assert few < all_rows < 100 << 20


def test_operations_grow_with_the_rows() -> None:
    few, many = estimate(RowRequest(((5,),)), SHAPE, LENGTH), estimate(MANY, SHAPE, LENGTH)
    assert many.flops == 200 * few.flops
    assert few.flops == 2 * 32 * 32 * 128 * LENGTH


CHANGES = {
    # budget in bytes, request, what is named
    "image columns first": (500 << 20, replace(MANY, image_keys=(tuple(range(500)),)), "with keys=image_keys"),
    "up to half the layers": (1200 << 20, MANY, "keep 22 of the 32 layers"),
    "then the heads": (200 << 20, MANY, "reduce='heads'"),
    "heads where layers are averaged": (70 << 20, replace(MANY, spec=RecordSpec(reduce="layers")), "reduce='both'"),
    "nothing fits": (10 << 20, MANY, "no single change fits: raise budget_bytes to at least"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_cheapest_change_that_fits_is_named(name: str) -> None:
    budget, request, sentence = CHANGES[name]
    request = with_spec(request, budget_bytes=budget)
    assert estimate(request, SHAPE, LENGTH).total_bytes > budget
    assert sentence in cheapest_change(request, SHAPE, LENGTH)
    with pytest.raises(BudgetError, match=f"budget is {readable(budget)}"):
        check_budget(request, SHAPE, LENGTH)


def test_a_named_layer_count_really_fits() -> None:
    request = with_spec(MANY, budget_bytes=1200 << 20)
    assert (
        check_budget(with_spec(request, layers=tuple(range(10, 32))), SHAPE, LENGTH).total_bytes
        <= request.spec.budget_bytes
    )
    with pytest.raises(BudgetError):
        check_budget(with_spec(request, layers=tuple(range(9, 32))), SHAPE, LENGTH)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")])
def test_bytes_for_people(count: int, text: str) -> None:
    assert readable(count) == text


FLOWS = {
    "half the bytes": (900 << 20, 4, "cache_dtype='bfloat16'"),
    "fewer at a time": (900 << 20, 2, "record 1 of the 2 sequences at a time"),
    "fewer layers": (300 << 20, 2, "follow the flow through the last 4 of 32 layers"),
    "nothing": (100 << 20, 2, "no single change fits: raise budget_bytes to at least"),
}


@pytest.mark.parametrize("case", FLOWS)
def test_a_flow_is_paid_for_in_queries_and_keys(case: str) -> None:
    budget, number, said = FLOWS[case]
    shape = replace(SHAPE, number_bytes=number)
    rows = ((2000,),) if number == 4 else ((2000,), (2001,))
    request = RowRequest(rows, keys=((1, 2, 3),) * len(rows), spec=RecordSpec(flow=AttentionFlow()))
    kept = estimate(request, shape, LENGTH).kept_bytes
    assert kept == len(rows) * (32 * LENGTH * (32 + 8) * 128 * number + 3 * 4)
    with pytest.raises(BudgetError, match=re.escape(said)):
        check_budget(with_spec(request, budget_bytes=budget), shape, LENGTH)
    check_budget(with_spec(request, budget_bytes=4 << 30), shape, LENGTH)


def test_decode_steps_of_a_flow_are_positions() -> None:
    plain = RowRequest(((5,),), spec=RecordSpec(flow=AttentionFlow()))
    steps = replace(plain, decode=True, decode_steps=10)
    more = estimate(steps, SHAPE, 100).kept_bytes - estimate(plain, SHAPE, 100).kept_bytes
    assert more == 32 * 10 * (32 + 8) * 128 * 4 + (11 * 110 - 100) * 4
