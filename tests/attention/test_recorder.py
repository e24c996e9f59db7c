from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.attention import Recording, RowRequest, record
from grounding.attention.rows import TOLERANCE
from grounding.errors import BudgetError, RecordingError
from grounding.models.tiny import tiny_llava_gqa
from grounding.record_spec import RecordSpec

GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def setting() -> tuple[Any, Any]:
    model, processor = tiny_llava_gqa()
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)) for _ in range(2)]
    texts = ["USER: <image>\nwhere is the red dog? ASSISTANT:", "USER: <image>\nwhere ASSISTANT:"]
    batch = processor(images=images, text=texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        # transformers puts its own capturing hooks on when outputs are first asked for, and leaves them
        model(**batch, output_attentions=True, output_hidden_states=True)
    return model, batch


@pytest.fixture
def model(setting: tuple[Any, Any]) -> Iterator[Any]:
    before = hooks_of(setting[0])
    with torch.no_grad():
        yield setting[0]
    assert setting[0].get_decoder().config._attn_implementation == "sdpa"
    assert hooks_of(setting[0]) == before


@pytest.fixture
def batch(setting: tuple[Any, Any]) -> Any:
    return setting[1]


def hooks_of(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def length_of(batch: Any) -> int:
    return int(batch["input_ids"].shape[1])


def last(batch: Any) -> tuple[tuple[int, ...], ...]:
    return ((length_of(batch) - 1,), (length_of(batch) - 1,))


def run(model: Any, request: RowRequest, action: Callable[[], Any]) -> Recording:
    with record(model, request) as recording:
        action()
    return recording


def in_a_thread(action: Callable[[], Any]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(timeout=120)


REFUSED: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[[Any, Any], Any], str]] = {
    "query behind the prompt": (
        lambda b: {"queries": ((length_of(b),), (length_of(b) - 1,))},
        lambda m, b: m(**b),
        r"query position \d+ of batch element 0 is outside the prompt",
    ),
    "query behind the prompt, while generating": (
        lambda b: {"queries": ((length_of(b) + 1,), (length_of(b) - 1,)), "decode": True},
        lambda m, b: m.generate(**b, **GREEDY),
        r"query position \d+ of batch element 0 is outside the prompt",
    ),
    "key behind the prompt": (
        lambda b: {"queries": last(b), "keys": ((1,), (999,))},
        lambda m, b: m(**b),
        "key position 999 of batch element 1 is outside the prompt",
    ),
    "query in the padding": (
        lambda b: {"queries": ((0,), (0,))},
        lambda m, b: m(**b),
        "query position 0 of batch element 1 is padding",
    ),
    "layer": (
        lambda b: {"queries": last(b), "spec": RecordSpec(layers=(2,))},
        lambda m, b: m(**b),
        "layer 2 does not exist: .* has 2",
    ),
    "head": (
        lambda b: {"queries": last(b), "spec": RecordSpec(heads=(8,))},
        lambda m, b: m(**b),
        "head 8 does not exist: .* has 8",
    ),
    "another batch size": (
        lambda b: {"queries": last(b)[:1]},
        lambda m, b: m(**b),
        "runs 2 sequences but the request is for 1",
    ),
    "beams": (
        lambda b: {"queries": last(b), "decode": True},
        lambda m, b: m.generate(**b, **GREEDY, num_beams=2),
        "runs 4 sequences but the request is for 2; give one tuple of queries per sequence, those of beams",
    ),
    "beams with a row each": (
        lambda b: {"queries": last(b) * 2, "decode": True},
        lambda m, b: m.generate(**b, **GREEDY, num_beams=2),
        "beam search reorders the cache",
    ),
    "no run": (lambda b: {"queries": last(b)}, lambda m, b: None, "nothing was recorded"),
    "run in another thread": (
        lambda b: {"queries": last(b)},
        lambda m, b: in_a_thread(lambda: m(**b)),
        "nothing was recorded: .* another thread",
    ),
    "two prompts": (
        lambda b: {"queries": last(b)},
        lambda m, b: (m(**b), m(**b)),
        "a second prompt was started inside one record",
    ),
    "no cache": (
        lambda b: {"queries": last(b)},
        lambda m, b: m.generate(**b, **GREEDY, use_cache=False),
        "generate ran without its cache",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_refused_with_a_sentence(name: str, model: Any, batch: Any) -> None:
    options, action, sentence = REFUSED[name]
    with pytest.raises(RecordingError, match=sentence):
        run(model, RowRequest(**options(batch)), lambda: action(model, batch))


def test_beams_may_run_where_only_the_prompt_is_recorded(model: Any, batch: Any) -> None:
    queries = tuple(q for q in last(batch) for _ in range(2))
    recording = run(model, RowRequest(queries), lambda: model.generate(**batch, **GREEDY, num_beams=2))
    assert torch.equal(recording.prefill[0], recording.prefill[1])


def test_assisted_generation_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    text = LlamaForCausalLM(config).eval()
    ids = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8, 5, 6]])  # repeats itself, so that the lookup finds candidates
    with pytest.raises(RecordingError, match="assisted generation"):
        run(
            text,
            RowRequest(((9,),), decode=True),
            lambda: text.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3),
        )


def test_a_query_that_was_cached_before_recording_is_refused(model: Any) -> None:
    decoder = model.get_decoder()
    embeds = torch.randn(1, 6, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    cache = decoder(inputs_embeds=embeds[:, :4], use_cache=True).past_key_values
    with pytest.raises(RecordingError, match=r"query position 2 was already in the cache \(4 positions\)"):
        run(decoder, RowRequest(((2,),)), lambda: decoder(inputs_embeds=embeds[:, 4:], past_key_values=cache))


def test_a_prompt_continued_from_a_cache_is_recorded(model: Any) -> None:
    decoder = model.get_decoder()
    embeds = torch.randn(1, 6, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    whole = run(decoder, RowRequest(((5, 4),)), lambda: decoder(inputs_embeds=embeds))
    cache = decoder(inputs_embeds=embeds[:, :4], use_cache=True).past_key_values
    rest = run(decoder, RowRequest(((5, 4),)), lambda: decoder(inputs_embeds=embeds[:, 4:], past_key_values=cache))
    torch.testing.assert_close(rest.prefill[0], whole.prefill[0], atol=5e-6, rtol=0)


def test_a_last_piece_of_one_position_is_refused_where_it_could_be_a_decode_step(model: Any) -> None:
    decoder = model.get_decoder()
    embeds = torch.randn(1, 9, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def in_pieces() -> None:
        cache = None
        for piece in embeds.split(4, dim=1):
            cache = decoder(inputs_embeds=piece, past_key_values=cache, use_cache=True).past_key_values

    with pytest.raises(
        RecordingError, match="query position 8 is read by a pass of one position, which looks like a decode step"
    ):
        run(decoder, RowRequest(((8,),)), in_pieces)
    with pytest.raises(RecordingError, match="add the prompt's last position to the queries"):
        run(decoder, RowRequest(((3,),), decode=True), in_pieces)
    # Eight positions in two pieces, then a decode step: the query names the prompt's last position.
    assert run(decoder, RowRequest(((7,),), decode=True), in_pieces).decode[0].shape[0] == 1


def test_nested_recordings_each_keep_their_own(model: Any, batch: Any) -> None:
    with record(model, RowRequest(last(batch))) as outer:
        with record(model, RowRequest(last(batch), spec=RecordSpec(layers=(1,), reduce="heads"))) as inner:
            model(**batch)
        assert model.get_decoder().config._attn_implementation == "sdpa", "the model reads the name of its own kernel"
    assert inner.prefill[0].shape[:2] == (1, 1)
    torch.testing.assert_close(inner.prefill[0][0, 0], outer.prefill[0][1].mean(dim=0), atol=1e-6, rtol=0)


def test_a_kernel_chosen_inside_the_block_stays(model: Any, batch: Any) -> None:
    with record(model, RowRequest(last(batch))):
        model(**batch)
        model.set_attn_implementation({"text_config": "eager"})
    assert model.get_decoder().config._attn_implementation == "eager"
    model.set_attn_implementation({"text_config": "sdpa"})


def test_eager_models_are_recorded_too(model: Any, batch: Any) -> None:
    model.set_attn_implementation({"text_config": "eager"})
    try:
        plain = model(**batch).logits
        with record(model, RowRequest(last(batch))) as recording:
            out = model(**batch, output_attentions=True)
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})
    assert torch.equal(out.logits, plain)
    expected = torch.stack([a[1, :, -1:] for a in out.attentions])
    torch.testing.assert_close(recording.prefill[1], expected, atol=TOLERANCE[torch.float32], rtol=0)


def test_decode_steps_over_the_budget_stop_the_run(model: Any, batch: Any) -> None:
    request = RowRequest(((), ()), decode=True, decode_steps=0, spec=RecordSpec(budget_bytes=60_000))
    with pytest.raises(BudgetError, match=r"decode steps take more than the budget of 58\.6 KiB"):
        run(model, request, lambda: model.generate(**batch, max_new_tokens=40, min_new_tokens=40, do_sample=False))


def padded_kernel(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float = 1.0, **options: Any
) -> Any:
    """Attention by the conventions of flash kernels: a 2-D padding mask or none, causality and window by arguments."""
    assert module.config._attn_implementation in ("house_padded", "house_other"), "a kernel may read its own name back"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    count, total = query.shape[2], key.shape[2]
    at, to = torch.arange(count)[:, None] + total - count, torch.arange(total)[None]
    allowed = (to <= at)[None, None]
    if options.get("sliding_window") is not None:
        allowed = allowed & (at - to < options["sliding_window"])
    if attention_mask is not None:
        allowed = allowed & attention_mask.bool()[:, None, None]
    logits = (query @ key.transpose(-1, -2) * scaling).masked_fill(~allowed, torch.finfo(torch.float32).min)
    weights = logits.softmax(-1)
    if module.config._attn_implementation == "house_other":
        weights = weights * 1.5  # not a softmax any more
    return (weights @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def house_kernels() -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    names = ("house_padded", "house_other")
    for name in names:
        AttentionInterface.register(name, padded_kernel)
        AttentionMaskInterface.register(name, flash_attention_mask)
    yield
    for name in names:
        assert AttentionInterface._global_mapping.pop(name) is padded_kernel, "the registry was not restored"
        assert AttentionMaskInterface._global_mapping.pop(name) is flash_attention_mask


def test_kernels_with_a_two_dimensional_mask(model: Any, batch: Any, house_kernels: None) -> None:
    queries = ((length_of(batch) - 1, length_of(batch) - 3), (length_of(batch) - 2,))
    expected = run(model, RowRequest(queries, decode=True), lambda: model.generate(**batch, **GREEDY))
    model.set_attn_implementation({"text_config": "house_padded"})
    try:
        recording = run(model, RowRequest(queries, decode=True), lambda: model.generate(**batch, **GREEDY))
        with pytest.raises(RecordingError, match="query position 0 of batch element 1 is padding"):
            run(model, RowRequest(((0,), (0,))), lambda: model(**batch))
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})
    for element in range(2):
        torch.testing.assert_close(recording.prefill[element], expected.prefill[element], atol=5e-6, rtol=0)
        torch.testing.assert_close(recording.decode[element], expected.decode[element], atol=5e-6, rtol=0)


def test_weights_that_do_not_explain_the_output_are_refused(model: Any, batch: Any, house_kernels: None) -> None:
    model.set_attn_implementation({"text_config": "house_other"})
    try:
        with pytest.raises(RecordingError, match="do not explain its attention's output"):
            run(model, RowRequest(last(batch)), lambda: model(**batch))
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})


@pytest.mark.parametrize("kernel", ["sdpa", "house_padded"])
def test_sliding_windows(kernel: str, house_kernels: None) -> None:
    """Rows of a windowed decoder, whose cache drops keys, in the positions of the whole sequence."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        initializer_range=0.15,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval()
    ids = torch.arange(5, 17)[None]
    model.set_attn_implementation("eager")
    slow = model.generate(ids, **GREEDY, output_attentions=True, return_dict_in_generate=True)
    model.set_attn_implementation(kernel)
    recording = run(model, RowRequest(((11, 8, 2),), decode=True), lambda: model.generate(ids, **GREEDY))
    expected = torch.stack([a[0] for a in slow.attentions[0]])[:, :, [11, 8, 2]]
    torch.testing.assert_close(recording.prefill[0], expected, atol=TOLERANCE[torch.float32], rtol=0)
    assert not recording.prefill[0][:, :, 0, :7].any()
    for step, layers in enumerate(slow.attentions[1:]):
        expected = torch.stack([a[0] for a in layers])
        stop = 13 + step
        row = recording.decode[0][step]
        kept = expected.shape[-1]
        torch.testing.assert_close(row[..., stop - kept : stop], expected, atol=TOLERANCE[torch.float32], rtol=0)
        assert not row[..., : stop - kept].any()


def test_decode_steps_can_be_taken_one_by_one_and_are_not_kept(model: Any, batch: Any) -> None:
    request = RowRequest(queries=last(batch), decode=True)
    kept = run(model, request, lambda: model.generate(**batch, **GREEDY))
    taken: list[list[torch.Tensor]] = []
    with record(model, request, on_step=taken.append) as recording:
        model.generate(**batch, **GREEDY)
    assert len(taken) == len(kept.decode[0]) == 3
    for element in range(2):
        assert len(recording.decode[element]) == 0
        for step, rows in enumerate(taken):
            columns = rows[element].shape[-1]
            assert columns == length_of(batch) + step + 1
            assert torch.equal(rows[element], kept.decode[element][step, ..., :columns])
