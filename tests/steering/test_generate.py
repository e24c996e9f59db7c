from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.errors import MethodError
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate


@pytest.fixture(scope="module")
def vlm() -> Llava:
    return Llava(*tiny_llava(), name="tiny")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]


def test_unsteered_equals_the_models_own_greedy_generation(vlm: Llava, images: list[Image.Image]) -> None:
    prepared = vlm.prepare_questions(images, ["where is it", "describe the image"])
    plain = vlm.model.generate(**prepared.inputs, do_sample=False, max_new_tokens=6)
    found = generate(vlm, images, ["where is it", "describe the image"], decoding=Decoding(max_new_tokens=6))
    for row, one in zip(plain[:, prepared.length :].tolist(), found, strict=True):
        assert tuple(row[: len(one.token_ids)]) == one.token_ids
        assert one.finished or len(one.token_ids) == 6


def test_sampling_repeats_with_its_seed_and_restores_the_global_state(vlm: Llava, images: list[Image.Image]) -> None:
    import torch

    state = torch.get_rng_state()
    samples = [
        generate(vlm, images, ["where", "is"], decoding=Decoding(max_new_tokens=8, do_sample=True, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert torch.equal(state, torch.get_rng_state())


def test_only_the_decoding_limits_sampling(vlm: Llava, images: list[Image.Image]) -> None:
    import torch

    prepared = vlm.prepare_questions(images, ["where", "is"])
    for top_k in (0, 7):
        torch.manual_seed(3)
        plain = vlm.model.generate(
            **prepared.inputs, do_sample=True, temperature=1.5, top_k=top_k, top_p=1.0, max_new_tokens=8
        )
        decoding = Decoding(max_new_tokens=8, do_sample=True, temperature=1.5, top_k=top_k, seed=3)
        for row, one in zip(
            plain[:, prepared.length :].tolist(),
            generate(vlm, images, ["where", "is"], decoding=decoding),
            strict=True,
        ):
            assert tuple(row[: len(one.token_ids)]) == one.token_ids
    assert vlm.model.generation_config.top_k != 0  # the model's default, which top_k=0 must override


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(MethodError, match="max_new_tokens 0"):
        Decoding(max_new_tokens=0)
    with pytest.raises(MethodError, match="top_k -1"):
        Decoding(top_k=-1)
    with pytest.raises(MethodError, match="top_p"):
        Decoding(top_p=0)
