"""Rows of several decode steps computed together equal those computed step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from grounding.attention import Recording, RowRequest, deferred_rows, held_steps, record
from grounding.attention.deferred_rows import STEPS, DeferredRows
from grounding.compat import cache_argument
from grounding.errors import BudgetError
from grounding.record_spec import RecordSpec

N = 12
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
TOLERANCE = {"atol": 2e-6, "rtol": 0}


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


def llama(dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval().to(dtype)


def capped_model(window: int) -> Any:
    """Gemma 2, whose first layer has a window and whose logits are capped; eager attention, with a mask."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    layers = ["sliding_attention", "full_attention", "full_attention"]
    config = Gemma2Config(**SIZES, attn_logit_softcapping=3.0, sliding_window=window, layer_types=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = Gemma2ForCausalLM(config).eval()
    found.set_attn_implementation("eager")
    return found


def request(batch: int = 1, **options: Any) -> RowRequest:
    return RowRequest(((N - 1,),) * batch, decode=True, **options)


def generate(model: Any, batch: int = 1, steps: int = STEPS + 5, **options: Any) -> Any:
    ids = torch.arange(5, 5 + batch * N).reshape(batch, N) % 60 + 2
    mask = torch.ones_like(ids)
    if batch > 1:
        ids[1, :3] = mask[1, :3] = 0
    given = {"max_new_tokens": steps + 1, "min_new_tokens": steps + 1, "do_sample": False, **options}
    return model.generate(ids, attention_mask=mask, **given)


def at_once(model: Any, asked: RowRequest, action: Callable[[], Any]) -> list[list[Tensor]]:
    """Rows of every step as `on_step` gives them: per step, per batch element [L, H, 1, C]."""
    steps: list[list[Tensor]] = []
    with record(model, asked, on_step=steps.append):
        action()
    return steps


def assert_equal(found: Recording, expected: list[list[Tensor]], **tolerance: float) -> None:
    for element, rows in enumerate(found.decode):
        assert len(rows) == len(expected)
        for row, step in zip(rows, expected, strict=True):
            own = step[element]
            torch.testing.assert_close(row[..., : own.shape[-1]], own, **(tolerance or TOLERANCE))
            assert not row[..., own.shape[-1] :].any()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many steps each product serves."""
    served: list[int] = []
    write = held_steps.write_logits
    monkeypatch.setattr(
        held_steps,
        "write_logits",
        lambda out, query, key, scale: (served.append(query.shape[2]), write(out, query, key, scale)),
    )
    return served


KEPT: dict[str, dict[str, Any]] = {
    "all columns": {},
    "a range of columns": {"keys": ((3, 4, 5), (6, 7))},
    "columns and heads": {"keys": ((8, 3), (5, 9)), "spec": RecordSpec(heads=(3, 1))},
    "some layers": {"spec": RecordSpec(layers=(2, 0))},
    "mean of heads": {"spec": RecordSpec(reduce="heads")},
    "mean of layers": {"spec": RecordSpec(reduce="layers")},
    "mean of both": {"keys": ((8,), (5,)), "spec": RecordSpec(reduce="both")},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("together", [1, 1 << 20])
def test_rows_equal_those_of_single_steps(
    model: Any, kept: str, mode: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A padded batch, with the layers computed one by one and together."""
    monkeypatch.setattr(deferred_rows, "CACHED_BYTES", together)
    served = counted(monkeypatch)
    asked = request(2, **KEPT[kept])
    with MODES[mode](), record(model, asked) as found:
        generate(model, 2)
    assert max(served) == STEPS
    with torch.no_grad():
        assert_equal(found, at_once(model, asked, lambda: generate(model, 2)))


def described(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the layers whose calls are described before they are held."""
    layers: list[int] = []
    add = DeferredRows.add
    monkeypatch.setattr(
        DeferredRows, "add", lambda self, layer, call: (layers.append(layer), add(self, layer, call))[1]
    )
    return layers


@pytest.mark.parametrize("mode", MODES)
def test_only_the_first_of_equal_calls_is_described(model: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = described(monkeypatch)
    with MODES[mode](), record(model, request()) as found:
        generate(model)
    assert layers == [0, 1, 2], "not even where the held steps ended, and others began"
    with torch.no_grad():
        assert_equal(found, at_once(model, request(), lambda: generate(model)))


def test_nested_blocks_record_the_same_rows(model: Any) -> None:
    few = request(spec=RecordSpec(layers=(1,)))
    with torch.inference_mode(), record(model, request()) as outer, record(model, few) as inner:
        generate(model)
    with torch.no_grad():
        assert_equal(outer, at_once(model, request(), lambda: generate(model)))
        assert_equal(inner, at_once(model, few, lambda: generate(model)))


def test_a_call_with_another_option_is_described_anew(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def halve(_: Any) -> None:
        monkeypatch.setattr(model.model.layers[1].self_attn, "scaling", 8**-0.5 / 2)

    layers = described(monkeypatch)
    with torch.no_grad():
        with record(model, request()) as found:
            stepped(model, halve)()
        assert layers == [0, 1, 2, 1, 1], "layer 1 differs once, and begins anew where the held steps have ended"
        monkeypatch.undo()
        assert_equal(found, at_once(model, request(), stepped(model, halve)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    half, served = llama(dtype), counted(monkeypatch)
    with torch.inference_mode(), record(half, request()) as found:
        generate(half)
    assert max(served) == STEPS
    with torch.no_grad():
        assert_equal(found, at_once(half, request(), lambda: generate(half)))


def test_soft_caps_windows_and_a_block_within_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording ends outside the mode in which the model ran; a layer with a window is computed at once."""
    capped, served = capped_model(window=8), counted(monkeypatch)
    asked = request(spec=RecordSpec(reduce="layers"))
    with record(capped, asked) as found, torch.inference_mode():
        generate(capped)
    assert max(served) == STEPS
    assert_equal(found, at_once(capped, asked, lambda: generate(capped)))


def test_a_cache_that_overwrites_is_computed_at_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served, options = counted(monkeypatch), {"cache_implementation": "static", "disable_compile": True}
    with torch.no_grad():
        with record(model, request()) as found:
            generate(model, **options)
        assert_equal(found, at_once(model, request(), lambda: generate(model, **options)))
    assert not served


def stepped(
    model: Any, change: Callable[[Any], None], *, at: int = 6, steps: int = 10, made: list[Any] | None = None
) -> Callable[[], None]:
    """Passes of one token, with a change of the cache before one of them; `made` receives the cache."""

    def run() -> None:
        cache = DynamicCache()
        if made is not None:
            made.append(cache)
        options = {cache_argument(model): cache, "use_cache": True}
        model(torch.arange(5, 5 + N)[None], **options)
        for step in range(steps):
            if step == at:
                change(cache)
            model(torch.tensor([[step + 7]]), **options)

    return run


def run_recorded(model: Any, action: Callable[[], Any]) -> None:
    with record(model, request()):
        action()


def test_steps_inside_and_outside_inference_mode(model: Any) -> None:
    def run() -> None:
        with torch.no_grad():
            cache = DynamicCache()
            model(torch.arange(5, 5 + N)[None], **{cache_argument(model): cache})
            for step, mode in enumerate("nniinninininii"):
                with torch.inference_mode(mode == "i"):
                    model(torch.tensor([[step + 7]]), **{cache_argument(model): cache})

    with record(model, request()) as found:
        run()
    assert_equal(found, at_once(model, request(), run))


def test_decode_steps_over_the_budget_are_refused_at_the_step_that_exceeds_it(model: Any) -> None:
    bytes_ = 3 * 4 * (N + 1) * 4 * 5
    asked = RowRequest(
        ((N - 1,),), keys=(tuple(range(N)),), decode=True, decode_steps=0, spec=RecordSpec(budget_bytes=bytes_ + 4096)
    )
    with (
        torch.no_grad(),
        pytest.raises(BudgetError, match=r"^(\d+) decode steps take more") as refused,
        record(model, asked),
    ):
        generate(model, steps=60)
    steps = int(str(refused.value).split()[0])
    assert steps == (bytes_ + 4096) // (3 * 4 * N * 4) + 1
