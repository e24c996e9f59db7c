from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import EvalDataError, MethodError
from grounding.schema import build, plain


@dataclass(frozen=True)
class Part:
    top: float = 0.5
    listed: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.top > 1:
            raise MethodError(f"top is {self.top}, expected at most 1")


@dataclass(frozen=True)
class Whole:
    name: ClassVar[str] = "whole"
    gain: float
    kind: Literal["one", "other"] = "one"
    bound: int | float = 1
    part: Part = field(default_factory=Part)
    maybe: Part | None = None
    several: tuple[Part, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    made: int = field(init=False, default=3)


def test_lists_become_tuples_and_mappings_dataclasses() -> None:
    data = {"gain": 1, "part": {"listed": [[1, 2]]}, "several": [{}, {"top": 1}], "numbers": {"a": 1}}
    expected = Whole(gain=1.0, part=Part(listed=((1, 2),)), several=(Part(), Part(top=1.0)), numbers={"a": 1.0})
    assert build(Whole, data, "f.yaml") == expected
    assert build(Part, None, "f.yaml") == Part()
    assert (build(Whole, {"gain": 1, "bound": 1}, "f").bound, build(Whole, {"gain": 1, "bound": 1.0}, "f").bound) == (
        1,
        1.0,
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "f.yaml: expected keys and values, got []"),
        ({1: 2}, "f.yaml: expected keys and values, got {1: 2}"),
        ({}, "f.yaml: gain must be given"),
        ({"gian": 1}, "f.yaml: unknown key 'gian' (did you mean 'gain'?); the known ones are gain, kind, bound, part"),
        ({"gain": 1, "made": 3}, "f.yaml: unknown key 'made'"),
        ({"gain": "1"}, "f.yaml: gain: got '1': input should be a valid number"),
        ({"gain": True}, "f.yaml: gain: got True: input should be a valid number"),
        ({"gain": 1, "kind": "third"}, "f.yaml: kind: got 'third': input should be 'one' or 'other'"),
        ({"gain": 1, "bound": "x"}, "f.yaml: bound: got 'x': "),
        ({"gain": 1, "part": "x"}, "f.yaml: part: expected keys and values, got 'x'"),
        ({"gain": 1, "part": {"tpo": 1}}, "f.yaml: part: unknown key 'tpo' (did you mean 'top'?); the known ones are"),
        ({"gain": 1, "maybe": {"tpo": 1}}, "f.yaml: maybe: unknown key 'tpo' (did you mean 'top'?)"),
        ({"gain": 1, "several": [{}, {"tpo": 1}]}, "f.yaml: several: item 2: unknown key 'tpo' (did you mean 'top'?)"),
        ({"gain": 1, "part": {"listed": [[1, "2"]]}}, "f.yaml: part: listed: got [[1, '2']]: "),
        ({"gain": 1, "part": {"top": 2}}, "f.yaml: top is 2.0, expected at most 1"),
        ({"gain": datetime.date(2026, 1, 1)}, "got datetime.date(2026, 1, 1): not a plain value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_its_place(data: object, sentence: str) -> None:
    with pytest.raises(EvalDataError) as wrong:
        build(Whole, data, "f.yaml", EvalDataError)
    assert sentence in str(wrong.value)


def test_a_name_is_not_said_twice() -> None:
    @dataclass(frozen=True)
    class Refusing:
        def __post_init__(self) -> None:
            raise MethodError("stage 'x' is wrong")

    with pytest.raises(MethodError, match=r"^f\.yaml: stage 'x' is wrong$"):
        build(Refusing, {}, "f.yaml: stage 'x'")


finite = st.floats(allow_nan=False, allow_infinity=False)
pairs = st.lists(st.tuples(st.integers(), st.integers())).map(tuple)
parts = st.builds(Part, finite.filter(lambda top: top <= 1), pairs)


@given(
    st.builds(
        Whole,
        finite,
        st.sampled_from(["one", "other"]),
        st.integers(),
        parts,
        st.none() | parts,
        st.lists(parts).map(tuple),
    )
)
def test_plain_data_of_a_dataclass_reads_back_as_it(whole: Whole) -> None:
    assert build(Whole, plain(whole), "f.yaml") == whole
