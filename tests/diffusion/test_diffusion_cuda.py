"""Maps of every diffusion family on a GPU; skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sources import tiny_source

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.tiny import TINY
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)) for seed in range(2)
]


def read(source: DiffusionSource) -> AttentionMaps:
    if source.video:
        return source.clip_maps([PICTURES * 3 + PICTURES[:1]], ["the red elephant"], RecordSpec())[0]
    return source.maps(PICTURES[:1], ["the red elephant"], RecordSpec())[0]


@pytest.mark.parametrize("name", sorted(TINY))
def test_maps_equal_those_of_the_cpu_and_the_output_is_bit_identical(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = tiny_source(name), tiny_source(name)
    there.pipe.to("cuda")
    seen: list[tuple[Any, Any, Any]] = []
    there.transformer.register_forward_hook(
        lambda _, args, kwargs, output: seen.append((args, kwargs, output[0])), with_kwargs=True
    )
    np.testing.assert_allclose(read(here).values, read(there).values, atol=2e-4)
    args, kwargs, recorded = seen[0]
    with torch.inference_mode():
        plain = there.transformer(*args, **kwargs)[0]
    tensors = zip(*(x if isinstance(x, list | tuple) else [x] for x in (plain, recorded)), strict=True)
    assert all(torch.equal(one, other) for one, other in tensors)
