from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.models.base import VLM
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl

QUESTIONS = ["where is it", "describe the image of the red dog"]


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def vlm(request) -> VLM:
    if request.param == "llava":
        return Llava(*tiny_llava(), name="tiny")
    return QwenVL(*tiny_qwen2_5_vl(), name="tiny")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (90, 60)]
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture
def questions() -> list[str]:
    return QUESTIONS
