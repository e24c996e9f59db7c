"""Rows of layers of cross-attention equal eager attention's; their columns are keys of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from test_coverage import GREEDY, IDS, TEXT, N, build, mllama

from grounding.attention import RowRequest, record
from grounding.attention.budget import DecoderShape, estimate
from grounding.attention.rows import TOLERANCE
from grounding.attention_flow import AttentionFlow
from grounding.errors import BudgetError, RecordingError
from grounding.record_spec import RecordSpec

CROSS = RecordSpec(attention="cross")
QUERIES = (N - 1, 7, 3)
KEYS = 20  # four tiles of a class token and 2x2 patches
ALLOWED = TOLERANCE[torch.float32]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def model() -> Any:
    found = mllama()
    with torch.no_grad():
        for layer in (1, 3):
            attention = found.get_decoder().layers[layer].cross_attn
            for weight in (attention.q_proj.weight, attention.k_proj.weight):
                weight.normal_(std=0.5, generator=torch.Generator().manual_seed(layer))
    return found


@cache
def inputs() -> dict[str, torch.Tensor]:
    """One prompt whose first three tokens stand before the picture; the picture uses two of its four tiles."""
    pixels = torch.randn(1, 1, 4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(1, N, 1, 4, dtype=torch.long)
    seen[:, 3:, :, :2] = 1
    used = torch.tensor([[[1, 1, 0, 0]]])
    return {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
        "pixel_values": pixels,
        "aspect_ratio_ids": torch.tensor([[2]]),
        "aspect_ratio_mask": used,
        "cross_attention_mask": seen,
    }


def eager(**options: Any) -> Any:
    model().set_attn_implementation("eager")
    try:
        return model()(**inputs(), output_attentions=True, **options)
    finally:
        model().set_attn_implementation("sdpa")


def expected(rows: tuple[int, ...] = QUERIES) -> torch.Tensor:
    """[L, H, R, K]"""
    attentions = eager().attentions
    return torch.stack([attentions[layer][0] for layer in (1, 3)])[:, :, list(rows)]


def recorded(spec: RecordSpec = CROSS, **options: Any) -> Any:
    with record(model(), RowRequest((QUERIES,), spec=spec, **options)) as recording:
        model()(**inputs())
    return recording


def test_rows_of_every_layer_of_cross_attention_equal_eager_attention() -> None:
    plain = model()(**inputs()).logits
    with record(model(), RowRequest((QUERIES,), spec=CROSS), verify=True) as recording:
        assert torch.equal(model()(**inputs()).logits, plain)
    assert recording.layers == (1, 3)
    (rows,) = recording.prefill
    assert rows.shape == (2, 4, 3, KEYS)
    torch.testing.assert_close(rows, expected(), atol=ALLOWED, rtol=0)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4, 3), atol=1e-5, rtol=0)
    assert not rows[..., KEYS // 2 :].any(), "tiles that the picture does not use"
    assert rows.max() > 3 / (KEYS // 2)


def test_a_word_before_the_picture_has_the_row_that_the_kernel_computes() -> None:
    with record(model(), RowRequest(((1,),), spec=CROSS)) as recording:
        model()(**inputs())
    torch.testing.assert_close(recording.prefill[0], expected((1,)), atol=ALLOWED, rtol=0)


def test_layers_heads_columns_reductions_and_statistics_are_those_of_other_recordings() -> None:
    full = expected()
    chosen = recorded(RecordSpec(attention="cross", layers=(3,), heads=(2, 0)), keys=((4, 1),))
    torch.testing.assert_close(chosen.prefill[0], full[1:, [2, 0]][..., [4, 1]], atol=ALLOWED, rtol=0)
    mean = recorded(RecordSpec(attention="cross", reduce="both")).prefill[0]
    torch.testing.assert_close(mean, full.mean((0, 1), keepdim=True), atol=ALLOWED, rtol=0)
    spec = RecordSpec(attention="cross", head_statistics=("max_all", "max_image"))
    (statistics,) = recorded(spec, image_keys=((1, 2, 3),)).head_statistics
    whole = expected(tuple(range(N)))
    torch.testing.assert_close(statistics["max_all"], whole.amax(-1).mean(-1), atol=ALLOWED, rtol=0)
    torch.testing.assert_close(statistics["max_image"], whole[..., 1:4].amax(-1).mean(-1), atol=ALLOWED, rtol=0)


@pytest.mark.parametrize("keys", [None, ((7, 0, 9),)])
def test_decode_steps_equal_those_of_eager_generation(keys: Any) -> None:
    steps: list[torch.Tensor] = []
    request = RowRequest(((N - 1,),), keys=keys, spec=CROSS, decode=True)
    with record(model(), request) as recording:
        text = model().generate(**inputs(), **GREEDY)
    with record(model(), request, on_step=lambda rows: steps.append(rows[0])):
        model().generate(**inputs(), **GREEDY)
    model().set_attn_implementation("eager")
    slow = model().generate(**inputs(), **GREEDY, output_attentions=True, return_dict_in_generate=True)
    model().set_attn_implementation("sdpa")
    assert torch.equal(slow.sequences, text)
    columns = slice(None) if keys is None else list(keys[0])
    (decode,) = recording.decode
    assert len(decode) == len(steps) == 3
    for number, attentions in enumerate(slow.attentions[1:]):
        wanted = torch.stack([attentions[layer][0] for layer in (1, 3)])[..., columns]
        torch.testing.assert_close(decode[number], wanted, atol=ALLOWED, rtol=0)
        assert torch.equal(steps[number], decode[number])


def test_a_prompt_in_pieces_has_the_same_rows() -> None:
    from transformers import DynamicCache

    from grounding.compat import cache_argument

    option = cache_argument(model())
    with record(model(), RowRequest((QUERIES,), spec=CROSS)) as recording:
        cache: Any = DynamicCache(config=model().config.get_text_config())
        whole = inputs()
        first = {name: value for name, value in whole.items() if name not in ("input_ids", "attention_mask")}
        model()(input_ids=IDS[:, :10], attention_mask=whole["attention_mask"][:, :10], **first, **{option: cache})
        rest = {"cross_attention_mask": whole["cross_attention_mask"][:, 10:], option: cache}
        model()(input_ids=IDS[:, 10:], attention_mask=whole["attention_mask"], **rest)
    torch.testing.assert_close(recording.prefill[0], expected(), atol=1e-5, rtol=0)


def test_self_attention_and_cross_attention_can_be_recorded_of_one_pass() -> None:
    own = RowRequest((QUERIES,), spec=RecordSpec(layers=(0, 2)))
    with record(model(), own) as text, record(model(), RowRequest((QUERIES,), spec=CROSS)) as picture:
        model()(**inputs())
    attentions = eager().attentions
    wanted = torch.stack([attentions[layer][0] for layer in (0, 2)])[:, :, list(QUERIES)]
    torch.testing.assert_close(text.prefill[0], wanted, atol=ALLOWED, rtol=0)
    torch.testing.assert_close(picture.prefill[0], expected(), atol=ALLOWED, rtol=0)


def test_what_has_no_meaning_for_cross_attention_is_refused() -> None:
    llama = build("LlamaForCausalLM", "LlamaConfig", **TEXT)
    with pytest.raises(RecordingError, match="LlamaModel has no layers of cross-attention: record its rows"):
        record(llama, RowRequest(((3,),), spec=CROSS)).__enter__()
    with pytest.raises(
        RecordingError, match=r"layers \[0\] of MllamaTextModel are not of cross-attention: .* \[1, 3\]"
    ):
        record(model(), RowRequest(((3,),), spec=RecordSpec(layers=(0, 1), attention="cross"))).__enter__()
    with pytest.raises(RecordingError, match="key 20 is outside the picture, which has 20 keys in layer 1"):
        recorded(keys=((3, 20),))
    with (
        pytest.raises(RecordingError, match="query position 24 of batch element 0 is outside the prompt"),
        record(model(), RowRequest(((N,),), spec=CROSS)),
    ):
        model()(**inputs())
    for name, value in (("flow", AttentionFlow()), ("residual_sinks", True), ("text_to_text", True)):
        with pytest.raises(
            RecordingError, match="need keys that are positions of the sequence, and those of cross-att"
        ):
            RecordSpec(attention="cross", **{name: value})
    with pytest.raises(ValueError, match="one recording has one kind of attention, got 'cross' and 'linear'"):
        CROSS | RecordSpec(attention="linear")
    assert (CROSS | RecordSpec()).attention == "cross"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_within_the_table(dtype: torch.dtype) -> None:
    """Against eager attention under the same kernel, so that layers have equal inputs."""
    half = mllama().to(dtype)
    half.set_attn_implementation("eager")
    given = inputs() | {"pixel_values": inputs()["pixel_values"].to(dtype)}
    with record(half, RowRequest((QUERIES,), spec=CROSS)) as recording:
        attentions = half(**given, output_attentions=True).attentions
    wanted = torch.stack([attentions[layer][0] for layer in (1, 3)])[:, :, list(QUERIES)].float()
    torch.testing.assert_close(recording.prefill[0], wanted, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("decode_steps", [0, 3])
def test_the_budget_counts_the_pictures_keys_and_not_the_prompts_length(decode_steps: int) -> None:
    asked = RowRequest((QUERIES,), spec=CROSS, decode=decode_steps > 0, decode_steps=decode_steps or 1)
    shape = DecoderShape.of(model().get_decoder().config, len(model().get_decoder().layers))
    chosen = replace(asked, spec=replace(CROSS, layers=(1, 3)))
    needed = estimate(chosen, shape, KEYS).total_bytes
    assert 2 * 4 * KEYS * 4 * (len(QUERIES) + decode_steps) < needed < estimate(chosen, shape, N).total_bytes
    with record(model(), replace(asked, spec=replace(CROSS, budget_bytes=needed))) as recording:
        model()(**inputs())
    assert recording.prefill[0].shape[-1] == KEYS
    few = replace(asked, spec=replace(CROSS, budget_bytes=needed - 1))
    with pytest.raises(BudgetError, match=f"for a picture of {KEYS} keys"), record(model(), few):
        model()(**inputs())


def test_a_recording_over_its_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"its budget is 1\.0 KiB"):
        recorded(RecordSpec(attention="cross", budget_bytes=1024))
