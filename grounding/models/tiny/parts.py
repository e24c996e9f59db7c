"""What the tiny models share."""

from __future__ import annotations

from typing import Any

import torch

TinyModel = tuple[Any, Any]
"""A model in eval mode, float32, on the CPU; and its processor."""

WIDE = 0.15
"""`initializer_range` of tiny models: random attention is far from uniform, and float32 rounding stays small."""


def seeded(model_class: Any, config: Any, seed: int, zeros: tuple[str, ...] = (), kernel: str = "sdpa") -> Any:
    """A model of random weights; torch's global random state is left as it was.

    Args:
        model_class: the transformers class.
        config: its config.
        seed: the weights' seed.
        zeros: ends of the names of parameters that the class initialises with zeros and that are to be random too.
        kernel: the attention kernel.
    """
    config._attn_implementation = kernel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        for name, parameter in model.named_parameters():
            if name.endswith(zeros):
                torch.nn.init.normal_(parameter, std=WIDE)
    return model.eval()
