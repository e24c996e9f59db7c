from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grounding.attention import RowRequest
from grounding.attention.budget import DecoderShape, cheapest_change, check_budget, estimate, readable
from grounding.errors import BudgetError
from grounding.types import RecordSpec

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
