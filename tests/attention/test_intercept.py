from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from sparse_model import sparse_model
from torch import Tensor

from grounding.attention.call import AttentionCall, AttentionEdit, RowEdit
from grounding.attention.events import Pass, Scope, Subscriber, active_routes, without_edits
from grounding.attention.intercept import intercept
from grounding.attention.introspect import decoder_stack, tower_stack, vision_tower
from grounding.attention.rows import attention_rows
from grounding.errors import RecordingError
from grounding.models.tiny import tiny_llava, tiny_llava_gqa

IDS = torch.tensor([[0, 0, 8, 10, 12, 14, 16, 18], [7, 9, 11, 13, 15, 17, 19, 21]])
MASK = (IDS > 0).long()


class Diary(Subscriber):
    """Writes every event down."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.calls: list[tuple[AttentionCall, Tensor]] = []

    def before_model(self, length: int) -> None:
        self.events.append(("model", length))

    def begin_pass(self, running: Pass) -> None:
        self.events.append(("begin", running.past, running.queries))

    def end_pass(self, *, failed: bool) -> None:
        self.events.append(("end", failed))

    def residual(self, layer: int, hidden: Tensor) -> None:
        self.events.append(("residual", layer, tuple(hidden.shape)))

    def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
        self.events.append(("call", layer, tuple(output.shape)))
        self.calls.append((call, output))

    def gate(self, layer: int, outputs: Tensor) -> None:
        self.events.append(("gate", layer, tuple(outputs.shape)))


class Patient(Diary):
    """Lets calls wait, and takes those of layer 1 without a description."""

    def may_wait(self) -> bool:
        return True

    def observe_repeated(self, layer: int, query: Tensor, key: Tensor, options: tuple[object, ...]) -> bool:
        if layer == 1:
            self.events.append(("repeated", layer, tuple(query.shape), tuple(key.shape)))
        return layer == 1


class Favour(Subscriber):
    """Adds a bias to the first key of every row."""

    def edit(self, layer: int, call: AttentionCall) -> AttentionCall:
        bias = torch.zeros(1, 1, 1, call.key_count)
        bias[..., 2] = 3.0
        return replace(call, edits=(*call.edits, RowEdit(0, AttentionEdit(logit_bias=bias))))


@pytest.fixture(scope="module")
def llava() -> Any:
    return tiny_llava_gqa()[0]


@pytest.fixture
def model(llava: Any) -> Iterator[Any]:
    from transformers import AttentionInterface

    looked_up = AttentionInterface.get_interface, AttentionInterface.__getitem__
    hooks = hook_count(llava)
    with torch.no_grad():
        yield llava
    assert (AttentionInterface.get_interface, AttentionInterface.__getitem__) == looked_up
    assert hook_count(llava) == hooks


def hook_count(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def read(model: Any) -> Tensor:
    return model(input_ids=IDS, attention_mask=MASK).logits


def test_events_come_in_the_order_of_the_pass(model: Any) -> None:
    plain, diary = read(model), Diary()
    with intercept(model, diary, Scope(calls=(0, 1), residuals=(1,), gates=(0,))):
        assert torch.equal(read(model), plain)
    assert diary.events == [
        ("model", 8),
        ("begin", 0, 8),
        ("call", 0, (2, 8, 8, 4)),
        ("gate", 0, (2, 8, 32)),
        ("residual", 1, (2, 8, 32)),
        ("call", 1, (2, 8, 8, 4)),
        ("end", False),
    ]


def test_a_pass_that_fails_says_so_and_is_undone(model: Any) -> None:
    diary = Diary()
    handle = model.get_decoder().layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError), intercept(model, diary, Scope(calls=(0,))):
            read(model)
    finally:
        handle.remove()
    assert diary.events[-1] == ("end", True)


ONE = torch.tensor([[7, 9, 11]])


def test_calls_without_a_mask_wait_for_the_end_of_the_pass(model: Any) -> None:
    plain, diary = model(input_ids=ONE).logits, Patient()
    with intercept(model, diary, Scope(calls=(0, 1), gates=(1,))):
        assert torch.equal(model(input_ids=ONE).logits, plain)
        assert torch.equal(read(model), read(model)), "with a mask, each is observed as it comes"
    assert diary.events[:6] == [
        ("model", 3),
        ("begin", 0, 3),
        ("gate", 1, (1, 3, 32)),
        ("call", 0, (1, 3, 8, 4)),
        ("repeated", 1, (1, 8, 3, 4), (1, 2, 3, 4)),
        ("end", False),
    ]
    assert [event[0] for event in diary.events[6:12]] == ["model", "begin", "call", "call", "gate", "end"]


def test_waiting_calls_of_a_pass_that_fails_are_dropped_and_an_error_at_the_end_fails_the_pass(model: Any) -> None:
    class Hurt(Patient):
        def observe(self, layer: int, call: AttentionCall, output: Tensor) -> None:
            raise ZeroDivisionError

    for diary, layer in ((Patient(), model.get_decoder().layers[1].mlp), (Hurt(), torch.nn.Linear(1, 1))):
        handle = layer.register_forward_pre_hook(lambda *_: 1 / 0)
        try:
            with pytest.raises(ZeroDivisionError), intercept(model, diary, Scope(calls=(0,))):
                model(input_ids=ONE)
        finally:
            handle.remove()
        assert diary.events == [("model", 3), ("begin", 0, 3), ("end", True)]


def test_a_pass_that_an_interrupt_ends_takes_no_further_calls(model: Any) -> None:
    """Torch skips the hooks behind a layer then, and the model of another block may run next."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    other, patient = tiny_llava()[0], Patient()
    handle = model.get_decoder().layers[1].mlp.register_forward_pre_hook(interrupt)
    with intercept(model, patient, Scope(calls=(0, 1))):
        with pytest.raises(KeyboardInterrupt):
            model(input_ids=ONE)
        handle.remove()
        (route,) = active_routes()
        assert route.waiting is not None
        for _ in range(3):
            other(input_ids=ONE)
        assert len(route.waiting) == len(model.get_decoder().layers)
        model(input_ids=ONE)
    assert [event[0] for event in patient.events] == ["model", "begin", "model", "begin", "call", "repeated", "end"]


def test_calls_wait_only_where_all_subscribers_let_them(model: Any) -> None:
    patient, diary = Patient(), Diary()
    with intercept(model, patient, Scope(calls=(0, 1))), intercept(model, diary, Scope(calls=(0,))):
        model(input_ids=ONE)
    assert [event[0] for event in patient.events] == ["model", "begin", "call", "repeated", "end"], "layer 1 waits"
    assert [event[0] for event in diary.events] == ["model", "begin", "call", "end"]
    both = Patient(), Patient()
    with intercept(model, both[0], Scope(calls=(1,))), intercept(model, both[1], Scope(calls=(0,))):
        model(input_ids=ONE)
    assert [event[0] for event in both[0].events] == ["model", "begin", "repeated", "end"]
    assert [event[0] for event in both[1].events] == ["model", "begin", "call", "end"]


def test_an_edit_changes_the_output_and_is_seen_by_later_subscribers(model: Any) -> None:
    plain, diary = read(model), Diary()
    with intercept(model, Favour(), Scope(calls=(0,), edits=True)), intercept(model, diary, Scope(calls=(0, 1))):
        edited = read(model)
        with without_edits():
            assert torch.equal(read(model), plain)
    assert not torch.equal(edited, plain)
    assert [len(call.edits) for call, _ in diary.calls] == [1, 0, 0, 0]
    call, output = diary.calls[0]
    value = call.value[1].repeat_interleave(call.head_count // call.value.shape[1], dim=0)
    rows = attention_rows(call, 1, torch.arange(8))
    torch.testing.assert_close((rows @ value).transpose(0, 1), output[1], atol=1e-6, rtol=0)


def test_other_threads_run_the_models_own_kernel(model: Any) -> None:
    plain = read(model)
    results: list[Tensor] = []

    def other() -> None:
        with torch.no_grad():
            results.append(read(model))

    diary = Diary()
    with intercept(model, Favour(), Scope(calls=(0, 1), edits=True)), intercept(model, diary, Scope(calls=(0, 1))):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=120)
    assert torch.equal(results[0], plain)
    assert diary.events == []


def test_blocks_that_end_out_of_order_leave_the_look_up_as_it_was(model: Any) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with intercept(model, Diary(), Scope(calls=(0,))):
            inside.set()
            leave.wait(120)

    thread = threading.Thread(target=other)
    with intercept(model, Diary(), Scope(calls=(0,))):
        thread.start()
        inside.wait(120)
    diary = Diary()
    with intercept(model, diary, Scope(calls=(0,))):
        leave.set()
        thread.join(timeout=120)
        read(model)
    assert len(diary.calls) == 1


@pytest.mark.parametrize(
    ("scope", "sentence"),
    [
        (Scope(calls=(7,)), r"layer 7 does not exist: the model has 2 \(0 to 1\)"),
        (Scope(residuals=(-1,)), "layer -1 does not exist"),
    ],
)
def test_layers_that_are_not_there_are_refused(model: Any, scope: Scope, sentence: str) -> None:
    with pytest.raises(RecordingError, match=sentence), intercept(model, Diary(), scope):
        pass


def test_edits_need_the_registry(model: Any) -> None:
    scope = Scope(calls=(0,), edits=True)
    with (
        pytest.raises(RecordingError, match="calls cannot be edited"),
        intercept(model, Favour(), scope, backend="sdpa"),
    ):
        pass


def test_a_decode_step_is_the_same_call_through_either_backend(model: Any) -> None:
    """Transformers packs the query heads of a masked grouped-query decode step; the sdpa backend unpacks them."""
    seen = {}
    for backend in ("transformers", "sdpa"):
        diary = Diary()
        with intercept(model, diary, Scope(calls=(0, 1)), backend=backend):  # type: ignore[arg-type]
            model.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        seen[backend] = diary.calls
    assert len(seen["sdpa"]) == len(seen["transformers"]) == 6
    for (tapped, output), (call, expected) in zip(seen["sdpa"], seen["transformers"], strict=True):
        assert tapped.query.shape == call.query.shape
        torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)
        for element in range(2):
            rows = torch.arange(call.query_count)[-1:]
            torch.testing.assert_close(
                attention_rows(tapped, element, rows), attention_rows(call, element, rows), atol=1e-6, rtol=0
            )


def test_the_vision_tower_is_a_stack_too() -> None:
    model = tiny_llava()[0]
    stack = tower_stack(vision_tower(model))
    assert stack is not None
    diary = Diary()
    size = model.config.vision_config.image_size
    with torch.no_grad(), intercept(model, diary, Scope(calls=(0,)), stack=stack):
        model.get_image_features(pixel_values=torch.rand(1, 3, size, size))
    assert [event[0] for event in diary.events] == ["begin", "call", "end"]
    patches = (size // model.config.vision_config.patch_size) ** 2
    assert diary.events[0] == ("begin", 0, patches + 1), "patches and the class token"


def test_a_sparse_model_that_reads_its_kernels_name_computes_what_it_does_without() -> None:
    """Sparse attention decides on its mask by the kernel's name, which interception leaves as it is."""
    model = sparse_model()
    with torch.no_grad():
        ids = torch.arange(1, 21)[None]
        plain, diary = model(ids).logits, Diary()
        with intercept(model, diary, Scope(calls=range(2)), stack=decoder_stack(model)):
            assert torch.equal(model(ids).logits, plain)
    rows = attention_rows(diary.calls[1][0], 0, torch.arange(20))
    assert ((rows > 0).sum(-1) <= 4).all(), "each query attends to the four keys that its indexer chose"
