"""Compare PAI's guidance and VCD with their formulas on full forward passes."""

from __future__ import annotations

import math

import pytest
import torch
from reference import greedy, next_log_probabilities, without_image

from grounding.errors import MethodError
from grounding.steering.baselines.pai import TextGuidance, text_only
from grounding.steering.baselines.vcd import VisualContrast, noised
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering, load_steering, parse_steering

LENGTH = 8
STRONG = VisualContrast(alpha=3.0, beta=0.01, noise_step=900, sample=False)


def steered(*steps) -> Steering:
    return Steering("test", "", "", steps)


def guided(s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    out = 2.5 * (s - u) + u
    out[s < math.log(0.1) + s.max()] = -math.inf
    return out


def contrasted(s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    out = 4.0 * s - 3.0 * u
    out[s < math.log(0.01) + s.max()] = -math.inf
    return out


def noised_by_hand(inputs, config, step: int, seed: int) -> torch.Tensor:
    kept = 1.0
    for t in range(step + 1):
        beta = 1 / (1 + math.exp(6 - 12 * t / 999)) * (0.005 - 0.00001) + 0.00001
        kept *= 1 - beta
    pixels = inputs["pixel_values"]
    generator = torch.Generator().manual_seed(seed)
    if pixels.ndim == 4:
        noise = torch.randn(pixels.shape[1:], generator=generator)[None]
    else:
        side = config.vision_config.patch_size
        once = torch.randn(len(pixels), 3, side * side, generator=generator)
        noise = torch.stack([once, once], dim=2).flatten(1)  # both frames of a patch
    return math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise


def test_guidance_equals_two_plain_passes(vlm, images, questions) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    found = generate(vlm, images, questions, steered(TextGuidance(gamma=2.5)), decoding)
    plain = generate(vlm, images, questions, None, decoding)
    assert [one.token_ids for one in found] != [one.token_ids for one in plain]
    for image, question, one in zip(images, questions, found, strict=True):
        inputs = dict(vlm.prepare_questions([image], [question]).inputs)
        assert one.token_ids == greedy(vlm.model, inputs, without_image(vlm, inputs), guided, LENGTH)


def test_visual_contrast_equals_two_plain_passes(vlm, images, questions) -> None:
    decoding = Decoding(max_new_tokens=LENGTH, seed=5)
    found = generate(vlm, images, questions, steered(STRONG), decoding)
    plain = generate(vlm, images, questions, None, decoding)
    assert [one.token_ids for one in found] != [one.token_ids for one in plain]
    for image, question, one in zip(images, questions, found, strict=True):
        inputs = dict(vlm.prepare_questions([image], [question]).inputs)
        noisy = inputs | {"pixel_values": noised_by_hand(inputs, vlm.model.config, 900, 5)}
        assert one.token_ids == greedy(vlm.model, inputs, noisy, contrasted, LENGTH)


def test_noise_is_the_published_schedule(vlm, images, questions) -> None:
    inputs = dict(vlm.prepare_questions(images[:1], questions[:1]).inputs)
    found = noised(inputs, vlm.model.config, 500, 3)
    torch.testing.assert_close(found, noised_by_hand(inputs, vlm.model.config, 500, 3), atol=1e-4, rtol=1e-4)
    with pytest.raises(MethodError, match=r"the shape \(2, 3\)"):
        noised({"pixel_values": torch.zeros(2, 3)}, vlm.model.config, 500, 0)


@pytest.mark.parametrize("step", [TextGuidance(gamma=2.5), STRONG], ids=lambda step: step.name)
def test_a_padded_batch_equals_its_elements_alone(vlm, images, questions, step) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    together = generate(vlm, images, questions, steered(step), decoding)
    for index in range(2):
        alone = generate(vlm, images[index : index + 1], questions[index : index + 1], steered(step), decoding)
        assert alone == [together[index]]


def test_the_text_only_prompt_is_the_prompt_without_image_tokens(vlm, images, questions) -> None:
    found = text_only(vlm.prepare_questions(images, questions))
    for row, mask, image, question in zip(*found.values(), images, questions, strict=True):
        alone = dict(vlm.prepare_questions([image], [question]).inputs)
        assert torch.equal(row[mask.bool()], without_image(vlm, alone)["input_ids"][0])
        assert mask.tolist() == sorted(mask.tolist())


class ReferenceGuidance:
    """Run the text-only branch without a cache, row by row."""

    def __init__(self, vlm, images, questions) -> None:
        self._vlm, self._length = vlm, vlm.prepare_questions(images, questions).length
        self._prompts = [
            without_image(vlm, dict(vlm.prepare_questions([image], [question]).inputs))
            for image, question in zip(images, questions, strict=True)
        ]

    def __call__(self, input_ids, scores):
        beams = len(input_ids) // len(self._prompts)
        rows = []
        for index, (ids, own) in enumerate(zip(input_ids, scores, strict=True)):
            answer = ids[self._length :].tolist()
            other = next_log_probabilities(self._vlm.model, self._prompts[index // beams], answer)
            rows.append(guided(own.double(), other).float())
        return torch.stack(rows)


def test_the_branch_follows_reordered_beams(vlm, images, questions) -> None:
    found = generate(vlm, images, questions, steered(TextGuidance(2.5)), Decoding(max_new_tokens=LENGTH, num_beams=3))
    prepared = vlm.prepare_questions(images, questions)
    expected = vlm.model.generate(
        **prepared.inputs,
        logits_processor=[ReferenceGuidance(vlm, images, questions)],
        num_beams=3,
        do_sample=False,
        max_new_tokens=LENGTH,
    )
    for row, one in zip(expected[:, prepared.length :].tolist(), found, strict=True):
        assert tuple(row[: len(one.token_ids)]) == one.token_ids


@pytest.mark.parametrize("step", [TextGuidance(gamma=2.5), VisualContrast()], ids=lambda step: step.name)
def test_draws_repeat_with_their_seed(vlm, images, questions, step) -> None:
    draws = [
        generate(vlm, images, questions, steered(step), Decoding(max_new_tokens=16, do_sample=True, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def texts_and_passes(vlm, images, questions, step) -> tuple[list, int]:
    count: list[int] = []
    handle = vlm.model.register_forward_hook(lambda *_: count.append(1))
    try:
        texts = generate(vlm, images, questions, step and steered(step), Decoding(max_new_tokens=4))
    finally:
        handle.remove()
    return texts, len(count)


def test_no_second_pass_where_its_weight_is_0(vlm, images, questions) -> None:
    runs = {}
    for name, step in (
        ("plain", None),
        ("gamma 1", TextGuidance(gamma=1)),
        ("alpha 0", VisualContrast(alpha=0, sample=False)),
        ("guided", TextGuidance()),
    ):
        runs[name] = texts_and_passes(vlm, images, questions, step)
    assert runs["plain"] == runs["gamma 1"] == runs["alpha 0"]
    assert runs["guided"][1] == 2 * runs["plain"][1]


def test_guidance_and_contrast_restore_the_model(vlm, images, questions) -> None:
    decoding = Decoding(max_new_tokens=LENGTH)
    before = generate(vlm, images, questions, None, decoding)
    generate(vlm, images, questions, steered(TextGuidance(2.5), STRONG), decoding)
    assert generate(vlm, images, questions, None, decoding) == before
    assert not vlm.model._forward_hooks
    assert not vlm.model._forward_pre_hooks


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(MethodError, match="gamma -1"):
        TextGuidance(gamma=-1)
    with pytest.raises(MethodError, match="noise_step 1000"):
        VisualContrast(noise_step=1000)


@pytest.mark.parametrize("name", ["vcd", "pai-guidance", "truncation"])
def test_shipped_files_read_back(name) -> None:
    method = load_steering(name)
    assert parse_steering(method.to_yaml(), name, name) == method
