from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from grounding.attention import RowRequest, record
from grounding.attention.call import AttentionCall
from grounding.attention.output_check import WEIGHT_TOLERANCE, checked, output_error
from grounding.attention.rows import attention_rows
from grounding.errors import RecordingError
from grounding.models.tiny import tiny_llava_gqa

N, H, G, D = 64, 8, 4, 32


def made(dtype: torch.dtype, sharpness: float, offset: float) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, H, N, D, generator=generator) * sharpness
    key, value = (torch.randn(1, H // G, N, D, generator=generator) for _ in range(2))
    value = value + offset
    return AttentionCall(query.to(dtype), key.to(dtype), value.to(dtype), None, D**-0.5, causal=True)


def outputs(call: AttentionCall, kernel: str, temperature: float = 1.0) -> torch.Tensor:
    """[B, Q, H, Dv] by torch's kernel or, rounding logits and weights to the dtype, by eager attention."""
    key, value = (part.repeat_interleave(G, dim=1) for part in (call.key, call.value))
    scale = call.scale / temperature
    if kernel == "sdpa":
        found = torch.nn.functional.scaled_dot_product_attention(call.query, key, value, is_causal=True, scale=scale)
    else:
        logits = call.query @ key.transpose(-1, -2) * scale
        hidden = torch.ones(N, N, dtype=torch.bool).triu(1)
        weights = logits.masked_fill(hidden, -torch.inf).softmax(-1, dtype=torch.float32)
        found = weights.to(call.query.dtype) @ value
    return found.transpose(1, 2)


def error(call: AttentionCall, output: torch.Tensor) -> float:
    rows = torch.tensor([0, 1, N // 2, N - 1])
    return float(output_error(call, 0, rows, attention_rows(call, 0, rows), output))


@pytest.mark.parametrize("dtype", WEIGHT_TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0, 50.0])
def test_rounding_of_a_right_kernel_is_allowed(
    dtype: torch.dtype, kernel: str, offset: float, sharpness: float
) -> None:
    call = made(dtype, sharpness, offset)
    assert error(call, outputs(call, kernel)) <= WEIGHT_TOLERANCE[dtype] / 3


@pytest.mark.parametrize("dtype", WEIGHT_TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_half_the_temperature_is_found(dtype: torch.dtype, kernel: str, sharpness: float) -> None:
    call = made(dtype, sharpness, 1.0)
    assert error(call, outputs(call, kernel, temperature=0.5)) > 2 * WEIGHT_TOLERANCE[dtype]


def test_what_is_not_finite_is_no_small_error() -> None:
    call = made(torch.float32, 1.0, 0.0)
    output = outputs(call, "sdpa")
    output[0, N - 1] = torch.nan
    assert error(call, output) != error(call, output)


def test_the_first_middle_and_last_row_are_checked() -> None:
    assert [checked(count) for count in (0, 1, 2, 3, 10)] == [[], [0], [0, 1], [0, 1, 2], [0, 5, 9]]


def spoilt(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    """Torch's kernel with half the temperature, in the rows of `SPOILT` alone."""
    from grounding.compat import sdpa_kernel

    right = sdpa_kernel()(module, query, key, value, attention_mask, **options)[0]
    wrong = sdpa_kernel()(module, query * 2, key, value, attention_mask, **options)[0]
    right[:, SPOILT] = wrong[:, SPOILT]
    return right, None


SPOILT: list[int] = []


@pytest.fixture
def spoilt_kernel() -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("spoilt", spoilt)
    AttentionMaskInterface.register("spoilt", sdpa_mask)
    yield
    AttentionInterface._global_mapping.pop("spoilt")
    AttentionMaskInterface._global_mapping.pop("spoilt")
    SPOILT.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("row", [3, 10, 19])
def test_a_kernel_that_is_wrong_in_one_checked_row_is_refused(
    dtype: torch.dtype, row: int, spoilt_kernel: None
) -> None:
    model = tiny_llava_gqa()[0].to(dtype)
    model.set_attn_implementation({"text_config": "spoilt"})
    ids = torch.arange(5, 25)[None]
    request = RowRequest(((3, 10, 19),))
    with torch.no_grad():
        with record(model, request):
            model(input_ids=ids)
        SPOILT.append(row)
        with (
            pytest.raises(RecordingError, match="do not explain its attention's output"),
            record(model, request),
        ):
            model(input_ids=ids)
