from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from grounding.attention import Recording, RowRequest
from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec

NOT_POSITIONS: dict[str, Any] = {
    "a number": 19,
    "a flat tuple": (1, 2),
    "a flat tensor": torch.tensor([3, 4]),
    "a fraction": ((1.5,),),
    "a tensor of fractions": torch.ones(1, 2),
    "text": ("ab",),
    "none": None,
}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no batch": ({"queries": ()}, "holds no batch element"),
    "keys for another batch": (
        {"queries": ((1,), (2,)), "keys": ((1,),)},
        "keys for 1 batch elements but queries for 2",
    ),
    "negative query": ({"queries": ((-1,),)}, "queries holds -1; positions and numbers count from 0"),
    "twice the same query": ({"queries": ((4, 4),)}, "queries names a position twice"),
    "twice the same key": ({"queries": ((4,),), "keys": ((1, 1),)}, "keys names a position twice"),
    "no layers": ({"queries": ((4,),), "spec": {"layers": ()}}, r"layers=\(\) must name each wanted one once"),
    "negative head": ({"queries": ((4,),), "spec": {"heads": (-2,)}}, "heads holds -2"),
    "reduction": ({"queries": ((4,),), "spec": {"reduce": "rows"}}, "reduce='rows' is unknown"),
    "statistic": (
        {"queries": ((4,),), "spec": {"head_statistics": ("mean",)}},
        "'mean' is unknown; known are max_all, max_image",
    ),
    "no image keys": (
        {"queries": ((4,),), "spec": {"head_statistics": ("max_image",)}},
        "'max_image' needs image_keys",
    ),
    "decode steps": ({"queries": ((4,),), "decode_steps": -1}, "decode_steps=-1 was given"),
    "nothing": ({"queries": ((), ())}, "asks for nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_with_a_sentence(name: str) -> None:
    options, sentence = WRONG[name]
    with pytest.raises(RecordingError, match=sentence):
        RowRequest(**{**options, "spec": RecordSpec(**options.get("spec", {}))})


def test_a_request_without_rows_may_ask_for_decode_steps_or_statistics() -> None:
    assert RowRequest(((), ()), decode=True).batch_size == 2
    assert RowRequest(((),), spec=RecordSpec(head_statistics=("max_all",))).queries == ((),)


def test_reading_a_recording_early_is_refused() -> None:
    recording = Recording((0, 1))
    for name in ("prefill", "decode", "head_statistics", "residual_sinks"):
        with pytest.raises(RecordingError, match="recording is not complete"):
            getattr(recording, name)
    assert recording.layers == (0, 1)


@pytest.mark.parametrize("name", NOT_POSITIONS)
@pytest.mark.parametrize("field", ["queries", "keys", "image_keys"])
def test_what_is_no_tuple_of_positions_per_element_is_refused(name: str, field: str) -> None:
    given = {"queries": ((4,),), field: NOT_POSITIONS[name]}
    if NOT_POSITIONS[name] is None and field != "queries":
        assert getattr(RowRequest(**given), field) is None
        return
    with pytest.raises(
        RecordingError, match=rf"{field}=.* was given; expected one tuple of positions per batch element"
    ):
        RowRequest(**given)


def test_positions_of_other_sequences_are_kept_as_tuples() -> None:
    for given in ([[3, 4]], [range(3, 5)], torch.tensor([[3, 4]]), np.array([[3, 4]])):
        assert RowRequest(given).queries == ((3, 4),)  # type: ignore[arg-type]
