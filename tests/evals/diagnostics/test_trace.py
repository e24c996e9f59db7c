from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evals.diagnostics.trace import trace
from grounding.attention.sinks import SinkRule
from grounding.errors import BudgetError, RecordingError
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava_gqa
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import parse_steering


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava_gqa(), name="tiny")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


DECODING = Decoding(max_new_tokens=6)


def test_shares_equal_those_of_eager_attention(vlm: Llava, image: Image.Image) -> None:
    found = trace(vlm, image, "where is the dog", decoding=DECODING)
    prepared = vlm.prepare_questions([image], ["where is the dog"])
    written = generate(vlm, [image], ["where is the dog"], decoding=DECODING)[0]
    assert found.text.strip() == written.text
    assert len(found.tokens) == len(written.token_ids) > 1
    vlm.model.set_attn_implementation("eager")
    try:
        more = torch.tensor([written.token_ids[:-1]])
        inputs = dict(prepared.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            attentions = vlm.model(**inputs, output_attentions=True).attentions
    finally:
        vlm.model.set_attn_implementation("sdpa")
    rows = torch.stack(attentions)[:, 0, :, prepared.length - 1 :].numpy()  # [L, H, T, K]
    positions = prepared.layouts[0].image
    wanted = (
        rows[..., : positions.min()].sum(-1),
        rows[..., positions].sum(-1),
        rows[..., positions.max() + 1 : prepared.length].sum(-1),
        rows[..., prepared.length :].sum(-1),
    )
    for index, one in enumerate(wanted):
        np.testing.assert_allclose(found.segments[..., index], one.transpose(2, 0, 1), atol=1e-5)
    np.testing.assert_allclose(found.segments.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found.first_key, rows[..., 0].transpose(2, 0, 1), atol=1e-5)
    assert found.segments[0, ..., 3].max() == 0 < found.segments[-1, ..., 3].min()


def test_sinks_are_part_of_the_image(vlm: Llava, image: Image.Image) -> None:
    none = trace(vlm, image, "where", decoding=DECODING, sinks=SinkRule(tau=1e9))
    every = trace(vlm, image, "where", decoding=DECODING, sinks=SinkRule(tau=1e-9, skip_layers=1))
    assert none.sink_counts.tolist() == [0, 0]
    assert none.sink_share.max() == 0
    assert every.sink_counts.tolist() == [0, every.image_keys]
    np.testing.assert_allclose(every.sink_share[1], every.segments[:, 1, :, 1].mean(0), atol=1e-6)


def test_steered_attention_is_what_is_seen(vlm: Llava, image: Image.Image) -> None:
    text = "description: d\nsource: s\nsteps:\n  - {step: renormalise, gain: 1.5, prefill: last}\n"
    plain = trace(vlm, image, "where", decoding=DECODING)
    steered = trace(vlm, image, "where", parse_steering(text, "gain", "here"), DECODING)
    share = plain.segments[0, 0, :, 1]  # layer 0, whose input is the same
    np.testing.assert_allclose(steered.segments[0, 0, :, 1], 1.5 * share / (1 + 0.5 * share), atol=1e-5)


def test_one_step_is_what_the_budget_is_for(vlm: Llava, image: Image.Image) -> None:
    trace(vlm, image, "where", decoding=Decoding(max_new_tokens=40), budget_bytes=60_000)
    with pytest.raises(BudgetError):
        trace(vlm, image, "where", decoding=DECODING, budget_bytes=1_000)


def test_beams_are_refused(vlm: Llava, image: Image.Image) -> None:
    with pytest.raises(RecordingError, match="beam"):
        trace(vlm, image, "where", decoding=Decoding(max_new_tokens=4, num_beams=2))
