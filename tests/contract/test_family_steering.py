"""What every model family promises of steering."""

from __future__ import annotations

import pytest
import torch
from steering_reference import Reference, reference_attention
from subjects import QUESTIONS, REFUSAL, Subject

from grounding.errors import MethodError
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.modulation import Renormalise, Values


def test_a_gain_of_one_is_bit_identical_and_another_equals_the_formula(subject: Subject) -> None:
    vlm = subject.vlm
    prepared = vlm.prepare_questions(subject.pictures, QUESTIONS)
    context = GenerationContext(vlm, subject.pictures, QUESTIONS, prepared, Decoding())
    edit: type[Renormalise | Values] = Renormalise
    if vlm.map_attention == "cross":
        edit = Values
        with pytest.raises(MethodError, match=REFUSAL), applied(Renormalise(gain=4.0), context):
            pass
    plain = vlm.model(**prepared.inputs).logits
    with applied(edit(gain=1.0, prefill="all"), context):
        assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
    modulation = edit(gain=4.0, prefill="all")
    with reference_attention(vlm, Reference(modulation, context)):
        expected = vlm.model(**prepared.inputs).logits
    with applied(modulation, context):
        found = vlm.model(**prepared.inputs).logits
    for element, layout in enumerate(prepared.layouts):
        real = slice(layout.padding, None)
        torch.testing.assert_close(found[element, real], expected[element, real], atol=5e-5, rtol=1e-3)
        assert (found[element, -1] - plain[element, -1]).abs().max() > 1e-3
    assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
