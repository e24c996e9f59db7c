"""What every model family promises of compiled code: its rows and steered logits are those of the uncompiled model.

The language model is compiled whole, without a graph break; the vision tower, whose shapes depend on pictures, is not.
Families differ in what the compiler traces, not in what it makes of it, so it runs the traced graphs as they are
(`backend="eager"`); kernels of its own are made for one family.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import FAMILIES
from subjects import ALLOWED, QUESTIONS, Subject, greedy, request_of
from torch._dynamo.utils import counters

from grounding.attention import Recording, record
from grounding.attention.introspect import length_of
from grounding.catalogue import UNVERIFIED
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.modulation import Renormalise, Values

# Other variants differ from their family in their pictures' layout alone.
TYPES = [
    name
    for name in FAMILIES
    if "compiled" not in UNVERIFIED.get(name, {}) and ("/" not in name or name == "gemma4/large")
]


@contextmanager
def compiled(subject: Subject, backend: str = "eager", *, prompts: bool = True) -> Iterator[None]:
    """Compile the language model in place inside the block, also for prompts or for decode steps alone."""
    decoder: Any = subject.vlm.decoder
    torch._dynamo.reset()
    counters.clear()
    decoder.compile(backend=backend, fullgraph=True)
    run = decoder._compiled_call_impl

    def run_steps(*args: Any, **kwargs: Any) -> Any:
        return (run if length_of(decoder, args, kwargs) == 1 else decoder._call_impl)(*args, **kwargs)

    decoder._compiled_call_impl = run if prompts else run_steps
    try:
        yield
    finally:
        decoder._compiled_call_impl = None
        torch._dynamo.reset()


def graphs() -> int:
    """How many graphs were compiled inside the block."""
    return int(counters["stats"]["unique_graphs"])


def recorded(subject: Subject) -> tuple[torch.Tensor, Recording]:
    with record(subject.vlm.model, request_of(subject)) as recording:
        logits = subject.vlm.model(**subject.batch.inputs).logits
    return logits, recording


def check_rows(found: Recording, expected: Recording) -> None:
    for rows, uncompiled in zip(found.prefill, expected.prefill, strict=True):
        torch.testing.assert_close(rows, uncompiled, atol=ALLOWED, rtol=0)


@pytest.mark.parametrize("subject", TYPES, indirect=True)
def test_a_prompt_is_recorded_in_compiled_code(subject: Subject) -> None:
    plain, expected = recorded(subject)
    with compiled(subject):
        logits, found = recorded(subject)
        assert graphs() == 1
    assert torch.equal(logits, plain)
    check_rows(found, expected)


@pytest.mark.parametrize("subject", TYPES, indirect=True)
def test_a_decode_step_is_steered_in_compiled_code(subject: Subject) -> None:
    vlm = subject.vlm
    prepared = vlm.prepare_questions(subject.pictures, QUESTIONS)
    context = GenerationContext(vlm, subject.pictures, QUESTIONS, prepared, Decoding())
    options = greedy(vlm.model) | {"max_new_tokens": 2, "min_new_tokens": 2}
    edit = Values if vlm.map_attention == "cross" else Renormalise

    def told(gain: float) -> torch.Tensor:
        """[B, V] the logits of the first decode step."""
        with applied(edit(gain=gain), context):
            output = vlm.model.generate(**prepared.inputs, **options, output_logits=True, return_dict_in_generate=True)
        return output.logits[1]

    plain, expected = told(1.0), told(4.0)
    with compiled(subject, prompts=False):
        found = told(4.0)
        assert graphs() == 1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["llava"], indirect=True)
def test_kernels_that_the_compiler_makes_are_recorded(subject: Subject) -> None:
    _, expected = recorded(subject)
    with compiled(subject, "inductor"):
        plain = subject.vlm.model(**subject.batch.inputs).logits
        logits, found = recorded(subject)
        assert graphs() == 2
    assert torch.equal(logits, plain)
    check_rows(found, expected)
