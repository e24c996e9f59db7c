"""The promises of recording and steering on a GPU; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from contract_cases import BUILDERS, build_vlm
from explicit_flow import DECAF, VLSAM
from PIL import Image

from grounding import compat
from grounding.attention import RowRequest, record
from grounding.attention.rows import TOLERANCE
from grounding.attention_flow import AttentionFlow
from grounding.models.base import VLM
from grounding.record_spec import RecordSpec
from grounding.scenes.drawing import draw_scene
from grounding.scenes.files import scene_seed
from grounding.scenes.language import SceneTexts
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering
from grounding.steering.modulation import Renormalise
from pipelines import ReferringSegmentation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
EXPRESSIONS = ("the red dog on the left", "the cat")
IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 100, 3), dtype=np.uint8)) for seed in range(2)
]


@pytest.fixture(scope="module", params=list(BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


@pytest.fixture(autouse=True)
def exact_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Convolutions of the vision tower would round to TF32, and the CPU's do not.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with torch.no_grad():
        yield


def on_gpu(vlm: VLM, dtype: torch.dtype) -> VLM:
    return type(vlm)(deepcopy(vlm.model).to("cuda", dtype), vlm.processor, vlm.name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_equal_eager_and_logits_are_bit_equal(vlm: VLM, dtype: torch.dtype) -> None:
    fast = on_gpu(vlm, dtype)
    slow = on_gpu(vlm, dtype)
    slow.model.set_attn_implementation("eager")
    prepared = fast.prepare(IMAGES, EXPRESSIONS)
    last = prepared.inputs["input_ids"].shape[1] - 1
    queries = ((last, last - 3), (last,))
    plain = fast.model(**prepared.inputs).logits
    with record(fast.model, RowRequest(queries)) as recording:
        recorded = fast.model(**prepared.inputs).logits
    assert torch.equal(plain, recorded)
    # Every layer of eager attention is fed by its own layer before, which in half precision drifts from the fast one;
    # the first layer's input is the same.
    depth = None if dtype == torch.float32 else 1
    attentions = slow.model(**prepared.inputs, output_attentions=True).attentions[:depth]
    for element, rows in enumerate(queries):
        expected = torch.stack([a[element] for a in attentions])[:, :, list(rows)].float().cpu()
        found = recording.prefill[element][: len(attentions)].cpu()
        torch.testing.assert_close(found, expected, atol=max(TOLERANCE[dtype], 2e-6), rtol=0)


def test_decoded_rows_equal_those_of_the_cpu(vlm: VLM) -> None:
    fast = on_gpu(vlm, torch.float32)
    recordings, texts = [], []
    for one in (vlm, fast):
        prepared = one.prepare(IMAGES, EXPRESSIONS)
        last = prepared.inputs["input_ids"].shape[1] - 1
        with record(one.model, RowRequest(((last,), (last,)), decode=True)) as recording:
            texts.append(one.model.generate(**prepared.inputs, **GREEDY).cpu())
        recordings.append(recording)
    assert torch.equal(*texts)
    for element in range(2):
        here, there = (recording.decode[element].cpu() for recording in recordings)
        torch.testing.assert_close(here, there, atol=1e-5, rtol=0)


@pytest.mark.parametrize("flow", [None, VLSAM, DECAF, replace(VLSAM, cache_device="cpu")], ids=str)
def test_maps_equal_those_of_the_cpu(vlm: VLM, flow: AttentionFlow | None) -> None:
    spec = RecordSpec(flow=flow)
    for here, there in zip(
        vlm.maps(IMAGES, EXPRESSIONS, spec), on_gpu(vlm, torch.float32).maps(IMAGES, EXPRESSIONS, spec), strict=True
    ):
        np.testing.assert_allclose(here.values, there.values, atol=1e-5)


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_steered_texts_equal_those_of_the_cpu(vlm: VLM, gain: float) -> None:
    steering = Steering("renormalise", "", "", (Renormalise(gain=gain),))
    decoding = Decoding(max_new_tokens=6)
    here, there = (generate(one, IMAGES, EXPRESSIONS, steering, decoding) for one in (vlm, on_gpu(vlm, torch.float32)))
    assert [one.text for one in here] == [one.text for one in there]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=["f32", "bf16"])
def test_the_kernels_log_sum_exp_comes_with_the_same_output(dtype: torch.dtype, tolerance: float) -> None:
    random = torch.Generator("cuda").manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 64, generator=random, device="cuda", dtype=dtype) for n in (50, 77, 77))
    found = compat.attention_with_lse(query, key, value)
    assert found is not None
    assert torch.equal(found[0], torch.nn.functional.scaled_dot_product_attention(query, key, value))
    logits = query.float() @ key.float().transpose(-1, -2) / 8
    torch.testing.assert_close(found[1], logits.logsumexp(-1), atol=tolerance, rtol=0)


@pytest.mark.parametrize("model", ["starter", "starter-dit"])
def test_segmenting_equals_that_of_the_cpu(model: str) -> None:
    scene = draw_scene(scene_seed(1, 0))
    expression = SceneTexts(scene).expressions[0].text
    results = [
        ReferringSegmentation.from_pretrained(model, device=device)(scene.image, expression)
        for device in ("cpu", "cuda")
    ]
    here, there = (np.asarray(result.segments[0].mask) for result in results)
    assert (here & there).sum() / max(1, (here | there).sum()) > 0.95
