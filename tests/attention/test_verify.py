from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from grounding.attention import RowRequest, record
from grounding.attention.events import active_routes
from grounding.errors import RecordingError
from grounding.models.tiny import tiny_llava_gqa
from grounding.record_spec import RecordSpec

IDS = torch.tensor([[0, 0, 8, 10, 12, 14, 16, 18], [7, 9, 11, 13, 15, 17, 19, 21]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
REQUEST = RowRequest(((7, 4), (7, 2)), decode=True)


@pytest.fixture(scope="module")
def shared() -> Any:
    return tiny_llava_gqa()[0]


@pytest.fixture
def model(shared: Any) -> Iterator[Any]:
    with torch.no_grad():
        shared(**INPUTS, output_hidden_states=True)  # transformers leaves its capturing hooks on
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in shared.modules())
        yield shared
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in shared.modules())


class Peeking:
    """A hook of a model that notices when it is recorded."""

    def __init__(self, from_pass: int = 0) -> None:
        self.passes, self.from_pass = 0, from_pass

    def __call__(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not active_routes():
            return None
        self.passes += 1
        return output + 1e-3 if self.passes > self.from_pass else None


def test_a_model_that_ignores_recording_passes_with_its_outputs_and_rows_unchanged(model: Any) -> None:
    options = {**GREEDY, "return_dict_in_generate": True, "output_hidden_states": True, "output_scores": True}
    plain = model.generate(**INPUTS, **options)
    with record(model, REQUEST) as expected:
        model.generate(**INPUTS, **GREEDY)
    for cache in ({}, {"cache_implementation": "static"}):
        with record(model, REQUEST, verify=True) as found:
            verified = model.generate(**INPUTS, **options, **cache)
        assert torch.equal(verified.sequences, plain.sequences)
        assert [len(step) for step in verified.hidden_states] == [len(step) for step in plain.hidden_states]
        for element in range(2):
            torch.testing.assert_close(found.prefill[element], expected.prefill[element], atol=5e-6, rtol=0)
            torch.testing.assert_close(found.decode[element], expected.decode[element], atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("action", "from_pass", "named"),
    [
        (lambda m: m(**INPUTS), 0, "logits of LlavaForConditionalGeneration differs"),
        (lambda m: m.generate(**INPUTS, **GREEDY), 2, "logits of LlavaForConditionalGeneration differs"),
        (lambda m: m.get_decoder()(**INPUTS), 0, "last_hidden_state of LlamaModel differs"),
    ],
    ids=["whole model", "third step of a generation", "decoder alone"],
)
def test_an_output_that_recording_changes_is_named(model: Any, action: Any, from_pass: int, named: str) -> None:
    handle = model.get_decoder().layers[1].mlp.register_forward_hook(Peeking(from_pass))
    try:
        with record(model, REQUEST):
            action(model)  # nothing tells without the check
        sentence = rf"{named} in \d+ of \d+ values, by up to 0\.0"
        with pytest.raises(RecordingError, match=sentence), record(model, REQUEST, verify=True):
            action(model)
    finally:
        handle.remove()


def test_a_pass_that_fails_keeps_its_own_error(model: Any) -> None:
    handle = model.get_decoder().layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError), record(model, REQUEST, verify=True):
            model(**INPUTS)
    finally:
        handle.remove()


def test_a_deep_copy_made_inside_a_block_is_a_plain_model(model: Any) -> None:
    plain = model(**INPUTS).logits
    request = RowRequest(REQUEST.queries, decode=True, spec=RecordSpec(residual_sinks=True))
    with record(model, request, verify=True) as recording:
        generated = model.generate(**INPUTS, **GREEDY, return_dict_in_generate=True)
        copied = copy.deepcopy(model)
        (own,) = (value for name, value in generated.items() if name in ("cache", "past_key_values"))
        cache = copy.deepcopy(own)
        assert torch.equal(copied(**INPUTS).logits, plain)
    assert torch.equal(copied(**INPUTS).logits, plain)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(cache.layers[0].keys[0], own.layers[0].keys[1])
    assert len(recording.decode[0]) == 3, "the copy's passes are not followed"
