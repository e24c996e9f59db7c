"""The promises of recording, for every model family."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from contract_cases import BUILDERS, Case

from grounding.attention import Recording, RowRequest, record
from grounding.attention.budget import DecoderShape, estimate
from grounding.attention.rows import TOLERANCE
from grounding.errors import BudgetError, RecordingError
from grounding.record_spec import RecordSpec

GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
FLOAT32 = TOLERANCE[torch.float32]


def eager_rows(case: Case, inputs: Any, queries: tuple[tuple[int, ...], ...]) -> list[torch.Tensor]:
    attentions = case.eager(**inputs, output_attentions=True).attentions
    return [torch.stack([a[b] for a in attentions])[:, :, list(rows)].float() for b, rows in enumerate(queries)]


def run_recorded(model: Any, inputs: Any, request: RowRequest) -> Recording:
    with record(model, request) as recording:
        model(**inputs)
    return recording


def test_rows_equal_eager(case: Case) -> None:
    with record(case.model, RowRequest(case.queries)) as recording:
        case.model(**case.batch)
    for rows, expected in zip(recording.prefill, eager_rows(case, case.batch, case.queries), strict=True):
        assert rows.shape == expected.shape
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected, atol=FLOAT32, rtol=0)


def test_logits_are_bit_equal_to_plain_sdpa(case: Case) -> None:
    plain = case.model(**case.batch).logits
    request = RowRequest(case.queries, spec=RecordSpec(head_statistics=("max_all",), residual_sinks=True))
    with record(case.model, request):
        recorded = case.model(**case.batch).logits
    assert torch.equal(plain, recorded)
    assert torch.equal(plain, case.model(**case.batch).logits)


def test_rows_sum_to_one_before_columns_are_chosen(case: Case) -> None:
    with record(case.model, RowRequest(case.queries)) as every:
        case.model(**case.batch)
    keys = ((3, 1, 7), (5, 4, 9))
    with record(case.model, RowRequest(case.queries, keys=keys)) as some:
        case.model(**case.batch)
    for element in range(2):
        sums = every.prefill[element].sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
        assert torch.equal(some.prefill[element], every.prefill[element][..., list(keys[element])])


def test_left_padded_batch_equals_unpadded(case: Case) -> None:
    assert case.padding[1] > 0, "the batch must be padded for this test to mean anything"
    with record(
        case.model, RowRequest(case.queries, spec=RecordSpec(residual_sinks=True, head_statistics=("max_all",)))
    ) as together:
        case.model(**case.batch)
    for element, inputs in enumerate(case.alone):
        pad = case.padding[element]
        own = tuple(q - pad for q in case.queries[element])
        with record(
            case.model, RowRequest((own,), spec=RecordSpec(residual_sinks=True, head_statistics=("max_all",)))
        ) as single:
            case.model(**inputs)
        batched = together.prefill[element]
        assert not batched[..., :pad].any()
        torch.testing.assert_close(batched[..., pad:], single.prefill[0], atol=5e-6, rtol=0)
        torch.testing.assert_close(
            together.head_statistics[element]["max_all"], single.head_statistics[0]["max_all"], atol=5e-6, rtol=0
        )
        assert together.residual_sinks is not None
        assert single.residual_sinks is not None
        torch.testing.assert_close(
            together.residual_sinks[element][:, pad:], single.residual_sinks[0], atol=1e-4, rtol=1e-4
        )


def test_prefill_and_decode_equal_eager_generate(case: Case) -> None:
    with record(case.model, RowRequest(case.queries, decode=True)) as recording:
        generated = case.model.generate(**case.batch, **GREEDY)
    assert torch.equal(generated, case.model.generate(**case.batch, **GREEDY))
    slow = case.eager.generate(**case.batch, **GREEDY, output_attentions=True, return_dict_in_generate=True)
    assert torch.equal(generated, slow.sequences)
    steps = slow.attentions[1:]  # step 0 is the prompt
    for element, rows in enumerate(case.queries):
        expected = torch.stack([a[element] for a in slow.attentions[0]])[:, :, list(rows)]
        torch.testing.assert_close(recording.prefill[element], expected, atol=FLOAT32, rtol=0)
        assert len(recording.decode[element]) == len(steps) == 4
        for step, layers in enumerate(steps):
            expected = torch.stack([a[element] for a in layers])
            columns = expected.shape[-1]
            torch.testing.assert_close(recording.decode[element][step, ..., :columns], expected, atol=FLOAT32, rtol=0)
            assert not recording.decode[element][step, ..., columns:].any()


def test_restored_after_an_exception(case: Case) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    names = set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)
    look_ups = AttentionInterface.get_interface, AttentionInterface.__getitem__
    decoder, during = case.model.get_decoder(), []

    def fail(*_: Any) -> None:
        during.append(decoder.config._attn_implementation)
        raise ZeroDivisionError("in the middle of a pass")

    handle = decoder.layers[1].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ZeroDivisionError):
            run_recorded(case.model, case.batch, RowRequest(case.queries, spec=RecordSpec(residual_sinks=True)))
    finally:
        handle.remove()
    assert during == ["sdpa"]
    assert (set(AttentionInterface._global_mapping), set(AttentionMaskInterface._global_mapping)) == names
    assert (AttentionInterface.get_interface, AttentionInterface.__getitem__) == look_ups
    assert case.model.get_decoder().config._attn_implementation == "sdpa"
    with record(case.model, RowRequest(case.queries)) as recording:
        case.model(**case.batch)
    assert recording.prefill[0].sum() > 0


def test_two_threads_recording_two_models_do_not_mix(case: Case) -> None:
    other, _ = BUILDERS[case.name](seed=1)
    models = (case.model, other)
    expected = []
    for model in models:
        with record(model, RowRequest(case.queries)) as recording:
            model(**case.batch)
        expected.append(recording.prefill)
    assert not torch.equal(expected[0][0], expected[1][0])
    barrier, results = threading.Barrier(2), [[], []]

    def run(index: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                with record(models[index], RowRequest(case.queries)) as recording:
                    barrier.wait(timeout=60)  # both are recording before either runs
                    models[index](**case.batch)
                    barrier.wait(timeout=60)
                results[index].append(recording.prefill)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for index in range(2):
        assert len(results[index]) == 3
        for rows in results[index]:
            assert all(torch.equal(a, b) for a, b in zip(rows, expected[index], strict=True))


def test_two_threads_recording_one_model_do_not_mix(case: Case) -> None:
    requests = (
        RowRequest(case.queries),
        RowRequest(((case.length - 2,), (case.length - 1,)), spec=RecordSpec(layers=(1,))),
    )
    barrier, results = threading.Barrier(2), {}

    def run(index: int) -> None:
        with torch.no_grad(), record(case.model, requests[index]) as recording:
            barrier.wait(timeout=60)
            case.model(**case.batch)
            barrier.wait(timeout=60)
        results[index] = recording.prefill

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results[0][0].shape[:3] == (2, case.model.get_decoder().config.num_attention_heads, 3)
    torch.testing.assert_close(results[1][1][0, :, 0], results[0][1][1, :, 0], atol=FLOAT32, rtol=0)


def test_over_budget_is_refused_before_the_run_with_the_cheapest_change(case: Case) -> None:
    queries = tuple(tuple(range(pad, case.length)) for pad in case.padding)
    image = tuple(tuple(range(pad + 5, pad + 9)) for pad in case.padding)
    shape = DecoderShape.of(case.model.get_decoder().config, 2)
    enough = estimate(RowRequest(queries, keys=image), shape, case.length).total_bytes
    inner = [m for m in case.model.modules() if m is not case.model]
    ran: list[Any] = []
    handles = [m.register_forward_pre_hook(lambda m, _: ran.append(m)) for m in inner]
    try:
        with pytest.raises(BudgetError, match=r"budget is .*is to keep only the image's columns with keys=image_keys"):
            run_recorded(
                case.model, case.batch, RowRequest(queries, image_keys=image, spec=RecordSpec(budget_bytes=enough))
            )
        assert not ran
        run_recorded(case.model, case.batch, RowRequest(queries, keys=image, spec=RecordSpec(budget_bytes=enough)))
        assert ran
    finally:
        for handle in handles:
            handle.remove()


def test_unrecordable_model_is_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    # BLOOM multiplies its matrices itself: neither the registry of kernels nor torch's attention function sees them.
    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)).eval()
    inputs = {"input_ids": torch.arange(8)[None]}
    with pytest.raises(RecordingError, match="BloomModel cannot be recorded: its layers have no attention"):
        run_recorded(model, inputs, RowRequest(((3,),)))
    with pytest.raises(RecordingError, match="no language model with a list of layers"):
        run_recorded(torch.nn.Linear(2, 2), inputs, RowRequest(((3,),)))


def test_vision_tower_is_untouched(case: Case) -> None:
    vision = case.model.config.vision_config
    tower = next(module for module in case.model.modules() if getattr(module, "config", None) is vision)
    seen = []
    handle = tower.register_forward_pre_hook(lambda m, _: seen.append(m.config._attn_implementation))
    try:
        with record(case.model, RowRequest(case.queries)) as recording:
            assert case.model.config.vision_config._attn_implementation == "sdpa"
            case.model(**case.batch)
    finally:
        handle.remove()
    assert seen == ["sdpa"]
    assert recording.layers == (0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_within_the_table(case: Case, dtype: torch.dtype) -> None:
    """Against eager attention computed from the very queries and keys of the recorded run."""
    model, _ = BUILDERS[case.name]()
    model.to(dtype)
    model.set_attn_implementation("eager")
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.batch.items()}
    with record(model, RowRequest(case.queries)) as recording:
        attentions = model(**inputs, output_attentions=True).attentions
    for element, rows in enumerate(case.queries):
        expected = torch.stack([a[element] for a in attentions])[:, :, list(rows)].float()
        sums = recording.prefill[element].sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
        torch.testing.assert_close(recording.prefill[element], expected, atol=TOLERANCE[dtype], rtol=0)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        plain = model(**inputs).logits
        with record(model, RowRequest(case.queries)):
            assert torch.equal(model(**inputs).logits, plain)


def test_decode_matches_a_longer_prompt(case: Case) -> None:
    """A decode step's row is the row the same token has when everything is read at once."""
    with record(case.model, RowRequest(case.queries, decode=True)) as recording:
        generated = case.model.generate(**case.batch, **GREEDY)
    new = generated[:, case.length :]
    longer = dict(case.batch)
    longer["input_ids"] = torch.cat([longer["input_ids"], new[:, :2]], dim=1)
    longer["attention_mask"] = torch.cat([longer["attention_mask"], torch.ones_like(new[:, :2])], dim=1)
    if "mm_token_type_ids" in longer:
        longer["mm_token_type_ids"] = torch.cat([longer["mm_token_type_ids"], torch.zeros_like(new[:, :2])], dim=1)
    at = ((case.length + 1,), (case.length + 1,))
    with record(case.model, RowRequest(at)) as whole:
        case.model(**longer)
    for element in range(2):
        step = recording.decode[element][1, ..., : case.length + 2]
        torch.testing.assert_close(step, whole.prefill[element], atol=5e-6, rtol=0)


def test_head_statistics_and_sinks_equal_a_direct_computation(case: Case) -> None:
    image = tuple(tuple(range(pad + 5, pad + 11)) for pad in case.padding)
    request = RowRequest(
        case.queries,
        keys=image,
        image_keys=image,
        spec=RecordSpec(head_statistics=("max_all", "max_image"), residual_sinks=True),
    )
    with record(case.model, request) as recording:
        case.model(**case.batch)
    out = case.eager(**case.batch, output_attentions=True, output_hidden_states=True)
    for element, pad in enumerate(case.padding):
        weights = torch.stack([a[element] for a in out.attentions])[:, :, pad:]
        everywhere, over_image = weights.amax(-1).mean(-1), weights[..., list(image[element])].amax(-1).mean(-1)
        torch.testing.assert_close(recording.head_statistics[element]["max_all"], everywhere, atol=5e-6, rtol=0)
        torch.testing.assert_close(recording.head_statistics[element]["max_image"], over_image, atol=5e-6, rtol=0)
        assert recording.residual_sinks is not None
        for layer in range(2):
            hidden = out.hidden_states[layer][element]
            normal = hidden / torch.sqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
            dims = hidden[pad].abs().topk(2).indices
            expected = normal[list(image[element])][:, dims].abs().amax(-1)
            torch.testing.assert_close(recording.residual_sinks[element][layer], expected, atol=1e-4, rtol=1e-4)


def test_reductions_while_running_equal_means_afterwards(case: Case) -> None:
    with record(case.model, RowRequest(case.queries, spec=RecordSpec(heads=(1, 3)))) as full:
        case.model(**case.batch)
    for reduce, axes in (("heads", (1,)), ("layers", (0,)), ("both", (0, 1))):
        with record(case.model, RowRequest(case.queries, spec=RecordSpec(heads=(1, 3), reduce=reduce))) as reduced:
            case.model(**case.batch)
        for element in range(2):
            expected = full.prefill[element].mean(dim=axes, keepdim=True)
            torch.testing.assert_close(reduced.prefill[element], expected, atol=1e-7, rtol=0)


def test_static_cache_and_prompt_in_pieces_equal_the_plain_way(case: Case) -> None:
    with record(case.model, RowRequest(case.queries, decode=True)) as plain:
        case.model.generate(**case.batch, **GREEDY)
    with record(case.model, RowRequest(case.queries, decode=True)) as static:
        case.model.generate(**case.batch, **GREEDY, cache_implementation="static")
    decoder, length = case.model.get_decoder(), case.length
    embeds = torch.randn(2, length, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    mask = case.batch["attention_mask"]
    request = RowRequest(case.queries, spec=RecordSpec(head_statistics=("max_all",), residual_sinks=True))
    with record(decoder, request) as whole:
        decoder(inputs_embeds=embeds, attention_mask=mask)
    with record(decoder, request) as pieces:
        cache = None
        for start in range(0, length, 15):
            part = slice(start, start + 15)
            out = decoder(
                inputs_embeds=embeds[:, part],
                attention_mask=mask[:, : part.stop],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
    for element in range(2):
        torch.testing.assert_close(static.prefill[element], plain.prefill[element], atol=5e-6, rtol=0)
        torch.testing.assert_close(static.decode[element], plain.decode[element], atol=5e-6, rtol=0)
        torch.testing.assert_close(pieces.prefill[element], whole.prefill[element], atol=5e-6, rtol=0)
        torch.testing.assert_close(
            pieces.head_statistics[element]["max_all"], whole.head_statistics[element]["max_all"], atol=5e-6, rtol=0
        )
        assert pieces.residual_sinks is not None
        assert whole.residual_sinks is not None
        torch.testing.assert_close(pieces.residual_sinks[element], whole.residual_sinks[element], atol=1e-4, rtol=1e-4)
