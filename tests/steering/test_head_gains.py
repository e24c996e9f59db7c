import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.cli import main
from grounding.errors import ImageError, MethodError
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava_gqa
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.fit_settings import FitSettings
from grounding.steering.fitting import _SampleCache, _weights, fit_gains
from grounding.steering.generate import generate
from grounding.steering.head_gains import HeadGains
from grounding.steering.heads import HeadChoice
from grounding.steering.method import Steering, load_steering
from grounding.steering.modulation import Renormalise
from grounding.steering.samples import CalibrationSample
from grounding.steering.teacher_forcing import TeacherForcedSample
from grounding.steering.text_route import TextRoute

QUESTIONS = ("where is the red dog on the left?", "where is it")
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava_gqa(), name="tiny")


@pytest.fixture(scope="module")
def gains(vlm: Llava) -> HeadGains:
    image, text = (
        tuple(tuple(float(gain) for gain in row) for row in table)
        for table in np.exp(RNG.normal(0, 1.5, (2, vlm.layer_count, vlm.head_count)))
    )
    return HeadGains(image=image, text=text)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(RNG.integers(0, 255, (80, 100, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.fixture(scope="module")
def samples(images: list[Image.Image]) -> list[CalibrationSample]:
    return [
        CalibrationSample(image, "what is it?", answer)
        for image, answer in zip(images, ("a red dog.", "the cat"), strict=True)
    ]


def method(*steps: object) -> Steering:
    return Steering("test", "", "", steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=8), Decoding(max_new_tokens=6, num_beams=2)])
def test_a_table_equals_one_step_per_head(
    vlm: Llava, images: list[Image.Image], gains: HeadGains, decoding: Decoding
) -> None:
    single = []
    for layer in range(vlm.layer_count):
        for head in range(vlm.head_count):
            one = HeadChoice(listed=((layer, head),))
            single.append(Renormalise(gain=gains.image[layer][head], heads=one))
            single.append(TextRoute(gain=gains.text[layer][head], heads=one, renormalise=True))
    texts = [generate(vlm, images, QUESTIONS, method(*steps), decoding) for steps in ((gains,), single, ())]
    assert texts[0] == texts[1] != texts[2]


def test_strength_is_an_exponent(vlm: Llava, images: list[Image.Image], gains: HeadGains) -> None:
    squared = HeadGains(
        *(), **{k: tuple(tuple(g * g for g in row) for row in getattr(gains, k)) for k in ("image", "text")}
    )
    decoding = Decoding(max_new_tokens=8)
    one = generate(vlm, images, QUESTIONS, method(replace(gains, strength=2.0)), decoding)
    assert one == generate(vlm, images, QUESTIONS, method(squared), decoding)
    assert one != generate(vlm, images, QUESTIONS, method(gains), decoding)


def test_gains_of_one_and_strength_0_are_bit_identical(vlm: Llava, images: list[Image.Image], gains: HeadGains) -> None:
    ones = ((1.0,) * vlm.head_count,) * vlm.layer_count
    prepared = vlm.prepare_questions(images, QUESTIONS)
    context = GenerationContext(vlm, images, QUESTIONS, prepared, Decoding())
    with torch.no_grad():
        plain = vlm.model(**prepared.inputs).logits
        for idle in (HeadGains(image=ones, text=ones), replace(gains, strength=0.0), HeadGains()):
            with applied(idle, context):
                assert torch.equal(vlm.model(**prepared.inputs).logits, plain)
        with applied(gains, context):
            assert not torch.equal(vlm.model(**prepared.inputs).logits, plain)


def test_gains_for_another_model_are_refused(vlm: Llava, images: list[Image.Image]) -> None:
    wrong = HeadGains(image=((2.0, 1.0),))
    with pytest.raises(MethodError, match="for 1 layers of 2 heads, but the model has 2 of 8"):
        generate(vlm, images, QUESTIONS, method(wrong), Decoding(max_new_tokens=2))
    with pytest.raises(MethodError, match="gains above 0"):
        HeadGains(image=((0.0, 1.0),))


def test_the_gradient_is_that_of_the_answer_under_steering(
    vlm: Llava, samples: list[CalibrationSample], gains: HeadGains
) -> None:
    """Compare the gradient with finite differences of the full pass, steered as in a generation."""
    cache = _SampleCache(vlm, [lambda: samples[0]], 5.0, 0)
    logs = torch.tensor([gains.image, gains.text]).log().requires_grad_()
    value, gradient = cache.likelihood(0, logs)
    forced = TeacherForcedSample.of(vlm, samples[0], ended=True)
    weights = _weights(forced, 5.0)
    assert sorted(set(weights.tolist())) == [1.0, 5.0]
    context = GenerationContext(vlm, [samples[0].image], [samples[0].question], forced.prepared, Decoding())

    def likelihood(at: torch.Tensor) -> float:
        image, text = (tuple(tuple(row) for row in table) for table in at.exp().tolist())
        with torch.no_grad(), applied(HeadGains(image=image, text=text), context):
            said = vlm.model(**forced.inputs).logits[0].double().log_softmax(-1)
        ids = forced.inputs["input_ids"][0]
        each = torch.stack([said[t - 1, ids[t]] for t in forced.targets])
        return float((each * weights).sum() / weights.sum())

    assert value == pytest.approx(likelihood(logs.detach()), abs=1e-5)
    gap = 0.05
    for head in ((0, 0, 1), (0, 1, 6), (1, 0, 3), (1, 1, 2)):
        ends = []
        for sign in (1, -1):
            at = logs.detach().clone()
            at[head] += sign * gap
            ends.append(likelihood(at))
        assert float(gradient[head]) == pytest.approx((ends[0] - ends[1]) / (2 * gap), abs=5e-5, rel=0.05)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_fitted_gains_make_the_answers_likelier(vlm: Llava, samples: list[CalibrationSample], kept_bytes: int) -> None:
    sources = [lambda: samples[0], lambda: samples[1]]
    found = fit_gains(vlm, sources, FitSettings(passes=12, batch=2), kept_bytes=kept_bytes)
    assert found.n == 2
    assert found.curve[-1] > found.curve[0] + 0.01
    again = fit_gains(vlm, sources, FitSettings(passes=12, batch=2), kept_bytes=kept_bytes)
    assert again == found
    assert all(parameter.grad is None for parameter in vlm.model.parameters())


def test_shared_gains_are_two_numbers_and_a_penalty_pulls_them_to_one(
    vlm: Llava, samples: list[CalibrationSample]
) -> None:
    sources = [lambda: samples[0]]
    shared = fit_gains(vlm, sources, FitSettings(passes=3, shared=True)).gains
    assert {len({gain for row in table for gain in row}) for table in (shared.image, shared.text)} == {1}
    free, held = (fit_gains(vlm, sources, FitSettings(passes=8, penalty=p)).gains for p in (0.0, 1e3))
    spread = [np.abs(np.log(one.image)).mean() for one in (free, held)]
    assert spread[0] > 2 * spread[1]


def test_a_sample_that_cannot_be_read_is_left_out_and_reported_once(
    vlm: Llava, samples: list[CalibrationSample]
) -> None:
    def broken() -> CalibrationSample:
        raise ImageError("no picture")

    failed: list[tuple[int, str]] = []
    settings = FitSettings(passes=3, batch=1)
    found = fit_gains(
        vlm, [broken, lambda: samples[0]], settings, left_out=lambda index, why: failed.append((index, str(why)))
    )
    assert failed == [(0, "no picture")]
    assert found.n == 1
    with pytest.raises(MethodError, match="none of 1 samples could be read; of the first one: no picture"):
        fit_gains(vlm, [broken], settings)


def test_the_command_writes_a_steering_file(tmp_path, capsys) -> None:
    file = tmp_path / "mine.yaml"
    order = ["calibrate", "gains", "--out", str(file), "--scenes", "3", "--passes", "2", "--json"]
    assert main(order) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n"] == 3
    assert len(said["curve"]) == 2
    steering = load_steering(file)
    assert said["data_sha256"] in steering.source
    assert isinstance(steering.steps[0], HeadGains)
    assert main([*order[:4], "--passes", "0"]) == 2
    assert main(["calibrate", "gains", "--out", str(file)]) == 2
    assert "no samples were given" in capsys.readouterr().err
