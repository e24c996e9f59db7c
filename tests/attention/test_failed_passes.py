"""A pass that fails inside a recording: what is refused afterwards, and what goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from test_coverage import qwen3_next
from test_deferred_rows import N, llama, request
from transformers.cache_utils import DynamicCache

from grounding.attention import RowRequest, record
from grounding.compat import cache_argument
from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec

PROMPT, TOKEN = torch.arange(5, 5 + N)[None], torch.tensor([[7]])
INCOMPLETE = "failed inside this record"


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@contextmanager
def failing(module: torch.nn.Module, error: type[BaseException]) -> Iterator[None]:
    """Make a module fail, and expect that."""

    def fail(*_: Any) -> None:
        raise error

    handle = module.register_forward_pre_hook(fail)
    try:
        with pytest.raises(error):
            yield
    finally:
        handle.remove()


def read(model: Any, cache: DynamicCache, ids: torch.Tensor = TOKEN) -> None:
    model(ids, **{cache_argument(model): cache})


def recorded(model: Any, action: Callable[[], None]) -> None:
    with record(model, request()):
        action()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_recording_with_an_incomplete_pass_is_refused(
    model: Any, at: int, error: type[BaseException], goes_on: bool
) -> None:
    """The prompt's pass, the first step, whose rows are computed at once, or one whose rows are held."""

    def run() -> None:
        cache = DynamicCache()
        for number in range(at + 1):
            with failing(model.model.layers[1].mlp, error) if number == at else nullcontext():
                read(model, cache, PROMPT if number == 0 else TOKEN)
        if goes_on:
            read(model, cache)

    with pytest.raises(RecordingError, match=INCOMPLETE):
        recorded(model, run)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_rows_of_linear_attention_are_refused_too(error: type[BaseException]) -> None:
    found = qwen3_next()
    asked = RowRequest(((N - 1,),), spec=RecordSpec(attention="linear"))
    with pytest.raises(RecordingError, match=INCOMPLETE), record(found, asked), failing(found.model.layers[-1], error):
        found(PROMPT)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_step_whose_rows_are_not_wanted_may_fail(model: Any, error: type[BaseException]) -> None:
    with record(model, RowRequest(((N - 1,),))) as plain:
        model(PROMPT)
    cache = DynamicCache()
    with record(model, RowRequest(((N - 1,),))) as found:
        read(model, cache, PROMPT)
        read(model, cache)
        with failing(model.model.layers[1].mlp, error):
            read(model, cache)
    assert torch.equal(found.prefill[0], plain.prefill[0])


def test_a_call_that_fails_before_the_decoder_leaves_nothing(model: Any) -> None:
    def run() -> None:
        cache = DynamicCache()
        read(model, cache, PROMPT)
        for number in range(4):
            read(model, cache)
            if number == 1:
                handle = model.register_forward_pre_hook(lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    model(PROMPT[:, :5])
                handle.remove()

    with record(model, request()) as found:
        run()
    assert found.decode[0].shape[0] == 4
    torch.testing.assert_close(found.decode[0].sum(-1), torch.ones(4, 3, 4, 1))
