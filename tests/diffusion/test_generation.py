"""Maps per step while every family's own pipeline generates."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sources import tiny_source

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.generation import record_generation
from grounding.diffusion.registry import PIPELINES
from grounding.errors import RecordingError
from grounding.record_spec import RecordSpec
from grounding.types import WordKind

PROMPT = "the red elephant"
STEPS = 3


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def source(request: pytest.FixtureRequest) -> DiffusionSource:
    return tiny_source(request.param)


def generate(source: DiffusionSource, prompt: str = PROMPT, **options: Any) -> Any:
    height, width = source.reading.size or source.native_size
    frames = {"num_frames": 1 + source.frames_per_latent} if source.video else {}
    taken = inspect.signature(source.pipe.__call__).parameters
    length = {"Mistral 3": 160, "Qwen3": 64, "Qwen2.5-VL": 64, "Gemma 2": 256}.get(source.encoder, 24)
    lengths = {"max_sequence_length": length} if "max_sequence_length" in taken else {}
    return source.pipe(
        prompt=prompt,
        height=height,
        width=width,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        return_dict=False,
        **{**frames, **lengths, **options},
    )[0]


def test_every_step_has_its_maps_and_the_result_is_the_same(source: DiffusionSource) -> None:
    plain = generate(source)
    with record_generation(source, PROMPT) as recording:
        recorded = generate(source)
    assert torch.equal(plain, recorded)
    maps = recording.maps
    assert maps.values.shape[:2] == (STEPS, source.layer_count)
    assert [w.text for w in maps.words if w.kind is not WordKind.SPECIAL] == ["the", "red", "elephant"]
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
    assert np.abs(maps.values[0] - maps.values[1]).max() > 0
    height, width = source.reading.size or source.native_size
    assert maps.image_size == (width, height)


def test_of_guidance_the_half_that_reads_the_prompt_is_recorded(source: DiffusionSource) -> None:
    """The first step's maps do not depend on the negative prompt, and do on the prompt."""
    options: dict[str, Any] = {}
    parameters = inspect.signature(source.pipe.__call__).parameters
    if "negative_prompt" not in parameters:
        pytest.skip("the pipeline has no negative prompt")
    if "true_cfg_scale" in parameters:
        options["true_cfg_scale"] = 3.0
    found = []
    for negative in ("a blue dog", "pink star of the left"):
        with record_generation(source, PROMPT, RecordSpec(reduce="both")) as recording:
            generate(source, negative_prompt=negative, **options)
        found.append(recording.maps.values)
    assert found[0].shape[0] == STEPS
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    with record_generation(source, "the red dog", RecordSpec(reduce="both")) as recording:
        generate(source, "the red dog", negative_prompt="a blue dog", **options)
    other = recording.maps.values
    assert other.shape != found[0].shape or np.abs(other[0] - found[0][0]).max() > 0


def test_a_second_picture_of_the_prompt(source: DiffusionSource) -> None:
    if source.video:
        pytest.skip("clips are generated one by one here")
    found = []
    for picture in (0, 1):
        with record_generation(source, PROMPT, RecordSpec(reduce="both"), picture) as recording:
            generate(source, num_images_per_prompt=2)
        found.append(recording.maps.values)
    assert np.abs(found[0] - found[1]).max() > 0
    with pytest.raises(RecordingError, match="picture 5 does not exist"), record_generation(source, PROMPT, None, 5):
        generate(source, num_images_per_prompt=2)


def test_nothing_generated_is_refused(source: DiffusionSource) -> None:
    with pytest.raises(RecordingError, match="did not run inside the block"), record_generation(source, PROMPT):
        pass
