"""Attention flow while a model runs, generates and reads its prompt in pieces, against products of matrices."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from contract_cases import Case
from explicit_flow import DECAF, VLSAM, explicit_flow

from grounding.attention import RowRequest, record
from grounding.attention_flow import AttentionFlow
from grounding.record_spec import RecordSpec

GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
IMAGE = ((6, 7, 8, 9, 10, 11), (7, 8, 9, 10))


def requested(case: Case, rule: AttentionFlow, decode: bool = False) -> RowRequest:
    return RowRequest(case.queries, image_keys=IMAGE, spec=RecordSpec(flow=rule), decode=decode)


def test_nothing_is_changed_and_rows_are_those_of_the_matrices(case: Case) -> None:
    plain = case.model(**case.batch).logits
    attentions = case.eager(**case.batch, output_attentions=True).attentions
    for rule in (VLSAM, DECAF, replace(VLSAM, cache_device="cpu")):
        with record(case.model, requested(case, rule)) as recording:
            assert torch.equal(plain, case.model(**case.batch).logits)
        for element, rows in enumerate(case.queries):
            real, image = case.batch["attention_mask"][element].bool(), torch.tensor(IMAGE[element])
            expected = explicit_flow([a[element] for a in attentions], rule, real, image)[list(rows)]
            assert recording.prefill[element].shape == (1, 1, len(rows), case.length)
            torch.testing.assert_close(recording.prefill[element][0, 0].double(), expected, atol=2e-6, rtol=2e-5)


def test_rows_of_generated_tokens_stand_behind_the_prompt(case: Case) -> None:
    with record(case.model, requested(case, VLSAM, decode=True)) as recording:
        generated = case.model.generate(**case.batch, **GREEDY)
    assert torch.equal(generated, case.model.generate(**case.batch, **GREEDY))
    whole = {**case.batch, "input_ids": generated[:, :-1]}
    whole["attention_mask"] = torch.nn.functional.pad(case.batch["attention_mask"], (0, 4), value=1)
    whole |= {
        name: torch.nn.functional.pad(ids, (0, 4)) for name, ids in case.batch.items() if name.endswith("type_ids")
    }
    attentions = case.eager(**whole, output_attentions=True).attentions
    for element, rows in enumerate(case.queries):
        expected = explicit_flow([a[element] for a in attentions], VLSAM, whole["attention_mask"][element].bool())
        steps = recording.decode[element]
        assert steps.shape == (4, 1, 1, 1, case.length + 4)
        torch.testing.assert_close(steps[:, 0, 0, 0].double(), expected[case.length :], atol=2e-6, rtol=2e-5)
        prompt = recording.prefill[element][0, 0].double()
        torch.testing.assert_close(prompt, expected[list(rows), : case.length], atol=2e-6, rtol=2e-5)


def test_a_prompt_in_pieces_and_a_generation_behind_it_leave_the_flow_alone(case: Case) -> None:
    with record(case.model, requested(case, VLSAM)) as once:
        case.model(**case.batch)
    with record(case.model, requested(case, VLSAM)) as pieces:
        case.model.generate(**case.batch, **GREEDY, prefill_chunk_size=9)
    for one, other in zip(once.prefill, pieces.prefill, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kept_in_half_the_bytes_the_flow_is_nearly_the_same(case: Case, dtype: torch.dtype) -> None:
    model = deepcopy(case.model).to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.batch.items()}
    with record(model, requested(case, VLSAM)) as full:
        model(**batch)
    with record(model, requested(case, replace(VLSAM, cache_dtype="bfloat16"))) as half:
        model(**batch)
    for one, other in zip(full.prefill, half.prefill, strict=True):
        torch.testing.assert_close(other, one, atol=1e-2, rtol=0)
        assert torch.equal(one, other) == (dtype == torch.bfloat16)
