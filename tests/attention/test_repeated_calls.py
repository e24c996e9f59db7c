"""Repeated calls: which are kept, and when they must be described again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounding.attention.call import AttentionCall
from grounding.attention.repeated_calls import RepeatedCalls

QUERY, KEY = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 5, 8)
SINKS = torch.zeros(4)


def call(mask: Tensor | None = None, window: int | None = None, **options: object) -> AttentionCall:
    return AttentionCall(
        query=QUERY,
        key=KEY,
        value=KEY,
        mask=mask,
        scale=0.5,
        causal=False,
        window=window,
        options=tuple(options.items()),
    )


@pytest.fixture
def calls() -> RepeatedCalls:
    calls = RepeatedCalls()
    calls.know(3, call(scaling=0.5, softcap=None, s_aux=SINKS))
    calls.start()
    return calls


SAME: dict[str, Any] = {"scaling": 0.5, "s_aux": SINKS, "unknown": 1}


def test_a_call_with_the_same_options_is_kept_once_a_step(calls: RepeatedCalls) -> None:
    assert calls.keep(3, QUERY, KEY, SAME)
    assert 3 in calls
    assert 4 not in calls
    assert not calls.keep(3, QUERY, KEY, SAME), "a second call of a layer must be seen"
    assert calls.take() == [(3, QUERY, KEY)]
    assert 3 not in calls
    assert not calls.keep(3, QUERY, KEY, SAME), "the step has ended"
    calls.start()
    assert calls.keep(3, QUERY, KEY, SAME)


@pytest.mark.parametrize("changed", [{"scaling": 0.25}, {"softcap": 30.0}, {"s_aux": SINKS.clone()}, {"s_aux": None}])
def test_a_call_with_another_option_is_not_kept(calls: RepeatedCalls, changed: dict[str, Any]) -> None:
    assert not calls.keep(3, QUERY, KEY, SAME | changed)


def test_a_step_that_failed_leaves_nothing(calls: RepeatedCalls) -> None:
    assert calls.keep(3, QUERY, KEY, SAME)
    calls.start()
    assert calls.take() == []


@pytest.mark.parametrize("last", [call(mask=torch.ones(1, 1, 1, 5)), call(window=2, scaling=0.5), call()])
def test_masks_windows_and_calls_of_unknown_options_are_not_repeated(calls: RepeatedCalls, last: AttentionCall) -> None:
    calls.know(3, last)
    calls.start()
    assert not calls.keep(3, QUERY, KEY, SAME)
