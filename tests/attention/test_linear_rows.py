"""Rows of linear attention equal a plain recurrence in float64, and recording them changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_coverage import build, qwen3_next

from grounding.attention import RowRequest, record
from grounding.attention.linear_rows import DeltaCall, delta_error, delta_rows
from grounding.compat import delta_module
from grounding.errors import BudgetError, ModelError, RecordingError
from grounding.models.tiny import TINY
from grounding.record_spec import RecordSpec

IDS = torch.arange(150)[None] % 59 + 5  # three chunks
N = IDS.shape[1]
QUERIES = (0, 3, 63, 64, 100, N - 1)
LINEAR = RecordSpec(attention="linear")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
"""Of weights from the kernel's own queries and keys: the rule runs in float32 whatever the model's number format."""


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def recurrence(call: DeltaCall, element: int) -> torch.Tensor:
    """All weights [H, N, N] by the rule as the paper writes it, run once for every position's one-hot value."""
    query, key = (x[element].double().transpose(0, 1) for x in (call.query, call.key))  # [J, N, D]
    if call.normalised:
        query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    decay, beta = (x[element].double() for x in (call.decay, call.beta))  # [N, H]
    length, heads = beta.shape
    query, key = (x.repeat_interleave(heads // len(x), 0) for x in (query, key))
    values = torch.eye(length, dtype=torch.float64)
    state = torch.zeros(heads, query.shape[-1], length, dtype=torch.float64)
    weights = torch.zeros(heads, length, length, dtype=torch.float64)
    for t in range(length):
        state = state * decay[t].exp()[:, None, None]
        held = torch.einsum("hd,hdv->hv", key[:, t], state)
        state = state + torch.einsum("hd,hv->hdv", key[:, t], beta[t][:, None] * (values[t] - held))
        weights[:, t] = call.scale * torch.einsum("hd,hdv->hv", query[:, t], state)
    return weights


def random_call() -> tuple[DeltaCall, torch.Tensor]:
    """A call of slow decay, whose rows reach through all chunks, and its output by transformers' own function."""
    made = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, N, 2, 8, generator=made)
    value = torch.randn(2, N, 4, 6, generator=made)
    decay = -0.02 * torch.rand(2, N, 4, generator=made)
    call = DeltaCall(query, key, value, decay, torch.rand(2, N, 4, generator=made), 8**-0.5, True)
    return call, by_transformers(call, value)


def by_transformers(call: DeltaCall, value: torch.Tensor) -> torch.Tensor:
    modeling = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    query, key = (x.repeat_interleave(2, 2) for x in (call.query, call.key))  # older releases do not share key heads
    options = {"g": call.decay, "beta": call.beta, "use_qk_l2norm_in_kernel": True}
    return modeling.torch_chunk_gated_delta_rule(query, key, value, **options)[0]


def test_rows_equal_the_recurrence_and_give_the_kernels_output() -> None:
    call, output = random_call()
    rows = torch.tensor(QUERIES[::-1])
    for element in range(2):
        found = delta_rows(call, element, rows)
        expected = recurrence(call, element)[:, rows]
        torch.testing.assert_close(found.double(), expected, atol=2e-7, rtol=0)
        assert (expected < -1e-3).any()
        given = found @ call.value[element].transpose(0, 1)
        torch.testing.assert_close(given, output[element, rows].transpose(0, 1), atol=1e-6, rtol=1e-5)
        assert delta_error(call, element, rows, found, output) < 1e-5


def test_one_hot_values_through_the_models_own_kernel_give_the_same_rows() -> None:
    call, _ = random_call()
    seen = by_transformers(call, torch.eye(N)[None, :, None].expand(2, N, 4, N).contiguous())
    rows = torch.tensor(QUERIES)
    torch.testing.assert_close(delta_rows(call, 1, rows), seen[1, rows].transpose(0, 1), atol=2e-7, rtol=0)


def models() -> list[tuple[str, Any]]:
    return [("Qwen3-Next", qwen3_next), ("Qwen3.5", lambda: qwen3_5_text()), ("OLMo hybrid", olmo_hybrid)]


def qwen3_5_text() -> Any:
    return build("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", **HYBRID)


def olmo_hybrid() -> Any:
    return build("OlmoHybridForCausalLM", "OlmoHybridConfig", **HYBRID)


HYBRID: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


def slowed(model: Any) -> Any:
    """The model with slow decay, so that rows are not zero a few positions back; and weights large enough to matter."""
    for layer in model.get_decoder().layers:
        module: Any = delta_module(layer)
        if module is not None:
            module.A_log.fill_(-4.0)
            module.in_proj_qkv.weight.mul_(10) if hasattr(module, "in_proj_qkv") else None
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DeltaCall, torch.Tensor]]:
    """What every layer gave to the rule, in order."""
    from grounding.attention.backends import linear

    seen: list[tuple[DeltaCall, torch.Tensor]] = []
    emit = linear._emit

    def kept(rule: Any, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
        result = emit(rule, query, key, value, *args, **options)
        seen.append((linear._described(query, key, value, *args, **options), result[0]))
        return result

    monkeypatch.setattr(linear, "_emit", kept)
    return seen


@pytest.mark.parametrize(("name", "make"), models(), ids=[name for name, _ in models()])
def test_recorded_rows_are_those_of_every_layer_and_the_logits_do_not_change(name: str, make: Any, calls: Any) -> None:
    model = slowed(make())
    plain = model(IDS).logits
    with record(model, RowRequest((QUERIES,), spec=LINEAR), verify=True) as recording:
        logits = model(IDS).logits
    assert torch.equal(logits, plain)
    assert recording.layers == (0, 1, 2)
    for layer, (call, output) in enumerate(calls[:3]):
        found = recording.prefill[0][layer]
        expected = recurrence(call, 0)[:, list(QUERIES)]
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[torch.float32], rtol=0)
        torch.testing.assert_close(
            (found @ call.value[0].transpose(0, 1)).transpose(0, 1), output[0, list(QUERIES)], atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_within_the_table(dtype: torch.dtype, calls: Any) -> None:
    model = slowed(qwen3_5_text()).to(dtype)
    with record(model, RowRequest((QUERIES,), spec=LINEAR)) as recording:
        model(IDS)
    for layer, (call, _) in enumerate(calls[:3]):
        expected = recurrence(call, 0)[:, list(QUERIES)]
        torch.testing.assert_close(recording.prefill[0][layer].double(), expected, atol=TOLERANCE[dtype], rtol=0)


def test_a_left_padded_batch_of_chosen_columns_layers_and_heads() -> None:
    model = slowed(qwen3_5_text())
    short = IDS[:, 30:]
    ids = torch.cat([IDS, torch.cat([torch.zeros(1, 30, dtype=torch.int64), short], 1)])
    mask = (ids > 0).long()
    keys = ((1, 5, 90), (40, 41, 100))
    spec = RecordSpec(attention="linear", layers=(0, 2), heads=(1, 3))
    with record(model, RowRequest(((70, N - 1), (N - 1,)), keys=keys, spec=spec)) as both:
        model(ids, attention_mask=mask)
    alone = RowRequest(((N - 31,),), keys=(tuple(k - 30 for k in keys[1]),), spec=spec)
    with record(model, alone) as one:
        model(short)
    assert [rows.shape for rows in both.prefill] == [(2, 2, 2, 3), (2, 2, 1, 3)]
    torch.testing.assert_close(both.prefill[1], one.prefill[0], atol=1e-6, rtol=1e-4)
    averaged = RecordSpec(attention="linear", layers=(0, 2), heads=(1, 3), reduce="both")
    with record(model, RowRequest(((70, N - 1), (N - 1,)), keys=keys, spec=averaged)) as mean:
        model(ids, attention_mask=mask)
    expected = both.prefill[0].mean((0, 1), keepdim=True)
    torch.testing.assert_close(mean.prefill[0], expected, atol=1e-7, rtol=1e-5)
    with (
        pytest.raises(RecordingError, match="query position 3 of batch element 1 is padding"),
        record(model, RowRequest(((70,), (3,)), spec=LINEAR)),
    ):
        model(ids, attention_mask=mask)


def test_the_prompts_rows_are_recorded_in_a_generation() -> None:
    model = slowed(qwen3_5_text())
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with record(model, RowRequest((QUERIES,), spec=LINEAR)) as plain:
        model(IDS, use_cache=False)
    with record(model, RowRequest((QUERIES,), spec=LINEAR)) as recording:
        steps = model.generate(IDS, **options)
    assert torch.equal(steps, model.generate(IDS, **options))
    torch.testing.assert_close(recording.prefill[0], plain.prefill[0], atol=1e-6, rtol=1e-4)


def test_other_threads_run_the_rule_itself_and_it_is_restored_after_an_exception() -> None:
    import sys

    model = slowed(qwen3_5_text())
    modeling = sys.modules[type(delta_module(model.get_decoder().layers[0])).__module__]
    before = dict(vars(modeling))
    failed = []

    def other() -> None:
        with torch.no_grad():
            failed.append(not torch.equal(model(IDS).logits, plain))

    plain = model(IDS).logits
    with record(model, RowRequest((QUERIES,), spec=LINEAR)) as recording:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        model(IDS)
    assert failed == [False]
    assert recording.prefill[0].shape == (3, 4, len(QUERIES), N)
    with pytest.raises(RuntimeError, match="stop"), record(model, RowRequest((QUERIES,), spec=LINEAR)):
        raise RuntimeError("stop")
    assert dict(vars(modeling)) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


REFUSED: dict[str, tuple[RowRequest, str]] = {
    "decode steps": (RowRequest(((3,),), spec=LINEAR, decode=True), "of the prompt, not of decode steps"),
    "a softmax layer": (RowRequest(((3,),), spec=replace(LINEAR, layers=(1, 3))), r"layers \[3\] .* do not"),
    "no such layer": (RowRequest(((3,),), spec=replace(LINEAR, layers=(9,))), "layer 9 does not exist"),
    "no such head": (RowRequest(((3,),), spec=replace(LINEAR, heads=(4,))), "head 4 does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_recorded_of_linear_attention_is_refused_before_the_run(name: str) -> None:
    request, sentence = REFUSED[name]
    with pytest.raises(RecordingError, match=sentence):
        record(qwen3_5_text(), request).__enter__()


def test_models_passes_and_budgets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecordingError, match="has no layers of linear attention"):
        record(TINY["llava"]()[0], RowRequest(((3,),), spec=LINEAR)).__enter__()
    model = qwen3_5_text()
    small = RecordSpec(attention="linear", budget_bytes=1000)
    with pytest.raises(BudgetError, match="budget"), record(model, RowRequest((QUERIES,), spec=small)):
        model(IDS)
    with (
        pytest.raises(RecordingError, match="need the whole prompt in one pass, and this one reads positions 0 to 63"),
        record(model, RowRequest((QUERIES,), spec=LINEAR)),
    ):
        model(IDS[:, :64], use_cache=True)
    with record(model, RowRequest((QUERIES,), spec=LINEAR)):
        model(IDS)
        with pytest.raises(RecordingError, match="a second prompt was started"):
            model(IDS)
    with (
        pytest.raises(RecordingError, match="nothing was recorded"),
        record(model, RowRequest((QUERIES,), spec=LINEAR)),
    ):
        pass
    with (
        pytest.raises(RecordingError, match="not compiled"),
        record(torch.compile(model, backend="eager"), RowRequest((QUERIES,), spec=LINEAR)),  # type: ignore[arg-type]
    ):
        model(IDS)


def test_rows_that_do_not_explain_the_output_or_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from grounding.attention import linear_collector

    model = slowed(qwen3_5_text())
    right = linear_collector.delta_rows
    for wrong, error, sentence in (
        (lambda *given: 1.1 * right(*given), RecordingError, "do not explain its attention's output"),
        (lambda *given: torch.nan * right(*given), ModelError, "not finite|overflow"),
    ):
        monkeypatch.setattr(linear_collector, "delta_rows", wrong)
        with pytest.raises(error, match=sentence), record(model, RowRequest((QUERIES,), spec=LINEAR)):
            model(IDS)


def test_what_softmax_attention_alone_has_is_refused() -> None:
    for options in ({"residual_sinks": True}, {"head_statistics": ("max_all",)}, {"text_to_text": True}):
        with pytest.raises(RecordingError, match="are recorded of softmax attention"):
            replace(LINEAR, **options)
    with pytest.raises(RecordingError, match="attention='gated' is unknown; use softmax or linear"):
        RecordSpec(attention="gated")  # type: ignore[arg-type]
