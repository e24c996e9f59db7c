"""Which queries are padding: by the mask that the decoder was given, whatever a layer makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sparse_model import sparse_model

from grounding.attention import RowRequest, record
from grounding.attention.introspect import real_positions
from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec

N, PAD = 20, 3
IDS = torch.arange(1, N + 1)[None].repeat(2, 1)
MASK = torch.ones(2, N, dtype=torch.int64)
MASK[1, :PAD] = 0
IDS[1, :PAD] = 0
STATISTIC = RecordSpec(head_statistics=("max_all",))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return sparse_model()


def test_a_sparse_query_that_does_not_attend_to_itself_is_a_token(model: Any) -> None:
    every = (tuple(range(N)), tuple(range(PAD, N)))
    with record(model, RowRequest(every, spec=STATISTIC)) as together:
        model(input_ids=IDS, attention_mask=MASK)
    model.set_attn_implementation("eager")
    attentions = model(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    assert (together.prefill[0].diagonal(dim1=-2, dim2=-1) == 0).any(), "some query leaves itself out"
    for element, rows in enumerate(every):
        weights = torch.stack([a[element] for a in attentions])[:, :, list(rows)]  # [L, H, R, K]
        torch.testing.assert_close(together.prefill[element], weights, atol=5e-6, rtol=0)
        largest = weights.amax(-1).mean(-1)
        torch.testing.assert_close(together.head_statistics[element]["max_all"], largest, atol=5e-6, rtol=0)


def test_padding_of_a_sparse_model_is_refused(model: Any) -> None:
    with (
        pytest.raises(RecordingError, match="query position 2 of batch element 1 is padding"),
        record(model, RowRequest(((N - 1,), (PAD - 1,)))),
    ):
        model(input_ids=IDS, attention_mask=MASK)


def test_every_form_of_mask_says_which_positions_are_tokens() -> None:
    causal = torch.ones(N, N, dtype=torch.bool).tril() & MASK.bool()[:, None]  # [B, Q, K]
    full = causal[:, None]
    additive = torch.zeros(full.shape).masked_fill(~full, torch.finfo(torch.float32).min)
    past = 2
    expected = MASK.bool()[:, past:]
    forms = {
        "padding": MASK,
        "bool": full[:, :, past:],
        "additive": additive[:, :, past:],
        "by kind of layer": {"sliding_attention": None, "full_attention": full[:, :, past:]},
        "static cache": torch.nn.functional.pad(full[:, :, past:], (0, 9)),
    }
    for name, mask in forms.items():
        found = real_positions(mask, past, N - past)
        assert found is not None, name
        assert torch.equal(found, expected), name
    none = real_positions(None, past, 4)
    assert none is not None
    assert none.tolist() == [[True] * 4]
    assert real_positions(object(), 0, 4) is None
