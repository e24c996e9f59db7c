"""What the tiny models share."""

from __future__ import annotations

from typing import Any

import torch

TinyModel = tuple[Any, Any]
"""A model in eval mode, float32, on the CPU; and its processor."""

WIDE = 0.15
"""`initializer_range` of tiny models: random attention is far from uniform, and float32 rounding stays small."""


def seeded(model_class: Any, config: Any, seed: int) -> Any:
    """A model of random weights with the sdpa kernel; torch's global random state is left as it was."""
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    return model.eval()
