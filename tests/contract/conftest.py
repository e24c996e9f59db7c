from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from contract_cases import BUILDERS, Case
from families import FAMILIES
from PIL import Image
from subjects import Subject, subject_of


@pytest.fixture(params=list(FAMILIES))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    one = subject_of(request.param)
    with torch.no_grad():
        yield one
    assert one.vlm.model.config._attn_implementation == one.kernel


@pytest.fixture(scope="session", params=list(BUILDERS))
def shared_case(request: pytest.FixtureRequest) -> Case:
    model, processor = BUILDERS[request.param]()
    eager, _ = BUILDERS[request.param]()
    eager.set_attn_implementation("eager")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)) for _ in range(2)]
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
        )
        for text in ("where is the red dog on the left?", "where is it")
    ]
    batch = processor(images=images, text=texts, return_tensors="pt", padding=True)
    alone = tuple(
        processor(images=[image], text=[text], return_tensors="pt") for image, text in zip(images, texts, strict=True)
    )
    with torch.no_grad():
        model(**batch)  # transformers puts its own capturing hooks on at the first call and leaves them
    return Case(request.param, model, eager, batch, alone)


@pytest.fixture
def case(shared_case: Case) -> Iterator[Case]:
    """The shared case; fails the test that leaves a kernel, a hook or a mode behind."""
    kernels = [m.config._attn_implementation for m in shared_case.model.modules() if hasattr(m, "config")]
    hooks = hook_count(shared_case.model)
    with torch.no_grad():
        yield shared_case
    assert [m.config._attn_implementation for m in shared_case.model.modules() if hasattr(m, "config")] == kernels
    assert hook_count(shared_case.model) == hooks
    assert torch.overrides._get_current_function_mode() is None


def hook_count(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
