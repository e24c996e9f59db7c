"""One failing item must not end a batch, and an error that all items share must end the run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import FATAL, ExpressionError, GroundingError, ImageError, ModelError, UnexpectedError
from grounding.faults import attempt_one
from grounding.runs.attempts import attempt, attempt_pictures, cut


def double(batch):
    if len(batch) > 1 and any(item < 0 for item in batch):
        raise ModelError("one of them is negative")
    if batch[0] < 0:
        raise ExpressionError(f"{batch[0]} is negative")
    return [2 * item for item in batch]


@given(st.lists(st.integers(-3, 9)))
def test_every_item_has_its_result_or_its_error(batch):
    outcomes = attempt(batch, double)
    assert len(outcomes) == len(batch)
    for item, outcome in zip(batch, outcomes, strict=True):
        if item < 0:
            assert isinstance(outcome, ExpressionError)
            assert str(item) in str(outcome)
        else:
            assert outcome == 2 * item


def test_a_batch_that_works_is_run_once():
    calls = []
    attempt([1, 2, 3], lambda batch: calls.append(list(batch)) or double(batch))
    attempt([], lambda batch: calls.append(batch))
    assert calls == [[1, 2, 3]]


def fail(error: type[GroundingError]):
    if error.__name__ == "MissingExtraError":
        raise error("package", "extra", "this")
    raise error("for every item")


@pytest.mark.parametrize("error", FATAL)
def test_fatal_errors_are_raised(error):
    for call in (
        lambda: attempt_one(lambda: fail(error)),
        lambda: attempt([1, 2], lambda batch: fail(error)),
        lambda: attempt_pictures([1], str, lambda item: fail(error), list),
        lambda: attempt_pictures([1], str, str, lambda loaded: fail(error)),
    ):
        with pytest.raises(error):
            call()


def test_an_exception_that_nobody_foresaw_is_the_result_of_its_item_alone():
    first, second = attempt([0, 2], lambda batch: [1 / item for item in batch])
    assert second == 0.5
    assert isinstance(first, UnexpectedError)
    assert isinstance(first.__cause__, ZeroDivisionError)
    assert "an unexpected ZeroDivisionError (division by zero)" in str(first)
    assert "out of memory: lower --batch-size" in str(attempt_one(lambda: (_ for _ in ()).throw(MemoryError())))
    with pytest.raises(KeyboardInterrupt):
        attempt_one(lambda: (_ for _ in ()).throw(KeyboardInterrupt()))


def test_each_picture_is_loaded_once_and_the_rest_is_run_together():
    loads, runs = [], []

    def load(item):
        loads.append(item)
        if item[0] == "b":
            raise ImageError("broken")
        return item[0].upper()

    def run(loaded):
        runs.append(len(loaded))
        return [picture + item[1] for item, picture in loaded]

    batch = ["a1", "b1", "a2", "b2", "c1"]
    outcomes = attempt_pictures(batch, lambda item: item[0], load, run)
    assert loads == ["a1", "b1", "c1"]
    assert runs == [3]
    assert [one if isinstance(one, str) else type(one) for one in outcomes] == [
        "A1",
        ImageError,
        "A2",
        ImageError,
        "C1",
    ]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_are_consecutive_and_full_but_for_the_last(items, size):
    batches = cut(items, size)
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)
