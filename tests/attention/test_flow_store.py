"""What is kept for a flow, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from explicit_flow import VLSAM

from grounding.attention import RowRequest, record
from grounding.attention.budget import DecoderShape, estimate
from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.flow_store import FlowStore
from grounding.attention_flow import AttentionFlow
from grounding.errors import BudgetError, RecordingError
from grounding.models.tiny import tiny_qwen2_5_vl
from grounding.record_spec import RecordSpec

IDS = torch.arange(12, 36)[None]
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
REQUEST = RowRequest(((23, 4),), decode=True, spec=RecordSpec(flow=VLSAM))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_qwen2_5_vl()[0]


def made_call(query: int, keys: int, offset: int = 0) -> AttentionCall:
    key = torch.randn(1, 2, keys, 8)
    return AttentionCall(torch.randn(1, 4, query, 8), key, key, None, 1.0, causal=True, query_offset=offset)


def test_whole_queries_and_keys_are_not_copied_and_parts_of_a_cache_are() -> None:
    store, whole = FlowStore(REQUEST), made_call(6, 6)
    store.add(0, whole)
    cache = made_call(2, 10, offset=6)
    store.add(0, cache)
    kept = store._layers[0]
    assert kept.keys[0].data_ptr() == whole.key.data_ptr()
    assert torch.equal(kept.keys[1], cache.key[:, :, 6:8])
    assert kept.keys[1].data_ptr() != cache.key[:, :, 6:8].data_ptr()
    assert store.nbytes == 8 * (4 + 2) * 8 * 4


def test_half_the_bytes() -> None:
    store = FlowStore(RowRequest(((3,),), spec=RecordSpec(flow=AttentionFlow(cache_dtype="bfloat16"))))
    store.add(0, made_call(6, 6))
    assert store.nbytes == 6 * (4 + 2) * 8 * 2


def test_a_static_cache_gives_the_same_rows(model: torch.nn.Module) -> None:
    with record(model, REQUEST) as dynamic:
        model.generate(IDS, **GREEDY)
    with record(model, REQUEST) as static:
        model.generate(IDS, **GREEDY, cache_implementation="static", disable_compile=True)
    torch.testing.assert_close(static.prefill[0], dynamic.prefill[0])
    torch.testing.assert_close(static.decode[0], dynamic.decode[0])


def test_edited_attention_is_refused() -> None:
    call = made_call(6, 6).changed(edits=(RowEdit(0, AttentionEdit(torch.zeros(1, 1, 1, 6))),))
    with pytest.raises(RecordingError, match="a flow of edited weights is not defined"):
        FlowStore(REQUEST).add(0, call)


def test_rows_of_single_steps_are_refused(model: torch.nn.Module) -> None:
    with pytest.raises(RecordingError, match="computed behind the last step"):
        record(model, REQUEST, on_step=print).__enter__()
    with pytest.raises(RecordingError, match="needs image_keys"):
        RowRequest(((3,),), spec=RecordSpec(flow=AttentionFlow("max_image")))


def test_the_budget_is_checked_before_the_run_and_while_text_grows(model: torch.nn.Module) -> None:
    shape = DecoderShape.of(model.config.get_text_config(), len(model.get_decoder().layers))
    few = replace(REQUEST, decode_steps=0)
    least = estimate(few, shape, IDS.shape[1]).total_bytes
    with pytest.raises(BudgetError, match="for a prompt of 24 positions but its budget is"):
        record(model, replace(few, spec=replace(few.spec, budget_bytes=least - 1))).__enter__()
    with (
        pytest.raises(BudgetError, match="decode steps take more than the budget"),
        record(model, replace(few, spec=replace(few.spec, budget_bytes=least))),
    ):
        model.generate(IDS, max_new_tokens=150, min_new_tokens=150, do_sample=False)
