"""Keys of held decode steps: changes that are seen, refused or allowed, and what memory they keep."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_deferred_rows import MODES, N, assert_equal, at_once, generate, llama, request, run_recorded, stepped
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from grounding.attention import record
from grounding.attention.deferred_rows import STEPS
from grounding.attention.held_steps import HeldSteps
from grounding.compat import cache_argument
from grounding.errors import ModelError, RecordingError


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


def knock_out(cache: Any) -> None:
    keys = cache.layers[1].keys.clone()
    keys[:, :, 2:6] *= -2
    cache.layers[1].keys = keys


def knock_out_in_place(cache: Any) -> None:
    cache.layers[1].keys[:, :, 2:6] *= -2


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_with_new_tensors_between_steps(model: Any, mode: str) -> None:
    with MODES[mode]():
        with record(model, request()) as found:
            stepped(model, knock_out)()
        assert_equal(found, at_once(model, request(), stepped(model, knock_out)))
        with record(model, request()) as plain:
            stepped(model, lambda _: None)()
    assert not torch.equal(plain.decode[0][6:], found.decode[0][6:])


@pytest.mark.parametrize("at", [6, 9])
@pytest.mark.parametrize("mode", MODES)
def test_a_change_in_place_is_refused(model: Any, mode: str, at: int) -> None:
    with MODES[mode]():
        with pytest.raises(RecordingError, match=r"keys of layer 1 were changed in place .* or record with on_step"):
            run_recorded(model, stepped(model, knock_out_in_place, at=at))
        assert len(at_once(model, request(), stepped(model, knock_out_in_place, at=at))) == 10
        run_recorded(model, stepped(model, knock_out_in_place, at=0))  # before any step is held


def test_a_change_in_place_is_refused_where_the_model_leaves_inference_mode(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = model.model.forward

    def outside(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            kwargs = {name: v.clone() if isinstance(v, Tensor) else v for name, v in kwargs.items()}
            return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", outside)
    with torch.inference_mode(), pytest.raises(RecordingError, match="layer 1 were changed in place"):
        run_recorded(model, stepped(model, knock_out_in_place))


def test_nothing_is_kept_of_calls_that_cannot_be_held(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that gives out tensors of the moment, under a mask."""
    alive: list[weakref.ref[Tensor]] = []
    update = DynamicLayer.update

    def moment(self: Any, *args: Any, **kwargs: Any) -> Any:
        key, value = update(self, *args, **kwargs)
        key = key.clone()
        alive.append(weakref.ref(key))
        return key, value

    monkeypatch.setattr(DynamicLayer, "update", moment)
    cache = DynamicCache()
    with torch.no_grad(), record(model, request()) as found:
        model(torch.arange(5, 5 + N)[None], **{cache_argument(model): cache})
        for step in range(4):
            mask = torch.ones(1, N + step + 1, dtype=torch.long)
            mask[0, :2] = 0
            model(torch.tensor([[step + 7]]), **{cache_argument(model): cache}, attention_mask=mask)
            assert not any(key() is not None for key in alive)
    assert not found.decode[0][..., :2].any()


def change_of_a_held_step(cache: Any) -> None:
    cache.layers[1].keys[:, :, N + 2] += 0.5


def small_change(cache: Any) -> None:
    cache.layers[1].keys[:, :, 2:6] += 1e-3


@pytest.mark.parametrize("change", [change_of_a_held_step, small_change])
@pytest.mark.parametrize("mode", MODES)
def test_a_small_change_and_one_of_a_held_steps_own_key_are_refused(
    model: Any, mode: str, change: Callable[[Any], None]
) -> None:
    with MODES[mode](), pytest.raises(RecordingError, match="layer 1 were changed in place"):
        run_recorded(model, stepped(model, change))


@pytest.mark.parametrize("mode", MODES)
def test_the_cache_is_free_once_generate_has_ended(model: Any, mode: str) -> None:
    with MODES[mode]():
        with record(model, request()) as found:
            generate(model, return_dict_in_generate=True).past_key_values.reset()
        assert_equal(found, at_once(model, request(), lambda: generate(model)))


def test_no_former_keys_are_held(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    made: list[Any] = []
    add = HeldSteps.add

    def watched(self: HeldSteps, step: int, count: int, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        made.append(weakref.ref(key))
        add(self, step, count, query, key, mask)
        alive.append(sum(key() is not None for key in made))

    monkeypatch.setattr(HeldSteps, "add", watched)
    with torch.no_grad(), record(model, request()):
        generate(model)
    assert len(made) > STEPS * 3
    assert max(alive) <= 4, "the cache's own three, and one that grows"


@pytest.mark.parametrize("mode", MODES)
def test_a_growing_cache_frees_its_keys_as_it_does_without_a_recording(
    model: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    former: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    update = DynamicLayer.update

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        alive.append(sum(key() is not None for key in former))
        if self.is_initialized:
            former.append(weakref.ref(self.keys))
        return update(self, *args, **kwargs)

    monkeypatch.setattr(DynamicLayer, "update", watched)
    with MODES[mode](), record(model, request()):
        generate(model)
    assert len(alive) == 3 * (STEPS + 6)
    assert max(alive[12:]) == 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_keys_that_are_cut_within_a_step_are_refused(model: Any, mode: str, count: int) -> None:
    def cut() -> None:
        caches: list[Any] = []

        def cut_keys(*_: Any) -> None:
            if caches[0].get_seq_length(1) == N + 6:
                layer = caches[0].layers[1]
                layer.keys, layer.values = layer.keys[:, :, count:], layer.values[:, :, count:]

        hook = model.model.layers[1].register_forward_pre_hook(cut_keys)
        try:
            stepped(model, lambda _: None, made=caches)()
        finally:
            hook.remove()

    with MODES[mode](), pytest.raises(RecordingError, match="layer 1 were changed in place in the cache, or cut"):
        run_recorded(model, cut)


def test_attention_that_overflows_in_a_held_step_is_named(model: Any) -> None:
    def spoil(cache: Any) -> None:
        cache.layers[2].keys = torch.full_like(cache.layers[2].keys, torch.inf)

    for mode in MODES.values():
        with mode(), pytest.raises(ModelError, match=r"overflow|not finite"):
            run_recorded(model, stepped(model, spoil))


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_with_new_tensors_within_a_step_is_computed_at_once(model: Any, mode: str) -> None:
    """The keys of a layer are replaced after its call and before the step's end."""

    def replaced() -> None:
        caches: list[Any] = []

        def replace_keys(*_: Any) -> None:
            layer = caches[0].layers[1]
            layer.keys = layer.keys.clone()

        hook = model.model.layers[1].register_forward_hook(replace_keys)
        try:
            stepped(model, lambda _: None, made=caches)()
        finally:
            hook.remove()

    with MODES[mode]():
        with record(model, request()) as found:
            replaced()
        assert_equal(found, at_once(model, request(), replaced))
