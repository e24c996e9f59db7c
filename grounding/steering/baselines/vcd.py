"""Visual contrastive decoding (VCD): less of what the model would also say about a picture drowned in noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grounding.errors import MethodError
from grounding.steering.base import GenerateOverrides, GenerationContext
from grounding.steering.baselines.contrast import Branch, Contrast, plausible

STEPS = 1000


@dataclass(frozen=True)
class VisualContrast:
    """`(1 + alpha) z - alpha z'`, z' being the logits for a noised picture (VCD, CVPR 2024, arXiv 2311.16922).

    Logits are taken as log-probabilities; the difference is a constant per row, which the softmax removes.

    The noise is drawn on the CPU from the decoding's seed, anew for each picture, so that a picture's noise does not
    depend on its batch; the paper does not say. Where a still picture's frame is repeated within a patch (Qwen2.5-VL),
    every copy gets the same noise, as if the picture had been noised before it was cut into patches.

    Attributes:
        alpha: strength; 0 runs no second pass and leaves the plausibility cut.
        beta: tokens less likely than this share of the likeliest are out, in [0, 1].
        noise_step: diffusion step of `STEPS` whose noise the normalised pixels get, counted from 0.
        sample: draw from the whole distribution at temperature 1, as published; False leaves it to the decoding.
    """

    alpha: float = 1.0
    beta: float = 0.1
    noise_step: int = 500
    sample: bool = True

    name: ClassVar[str] = "visual-contrast"

    def __post_init__(self) -> None:
        if self.alpha < 0 or not 0 <= self.beta <= 1 or not 0 <= self.noise_step < STEPS:
            raise MethodError(
                f"visual-contrast: alpha {self.alpha}, beta {self.beta} and noise_step {self.noise_step} were given, "
                f"expected alpha >= 0, beta in [0, 1] and a step from 0 to {STEPS - 1}"
            )

    @contextmanager
    def applied(self, context: GenerationContext) -> Iterator[GenerateOverrides]:
        """See `Intervention`; adds one processor and, where it samples, the settings of the draws."""
        branch = None
        if self.alpha != 0:
            inputs = dict(context.prepared.inputs)
            inputs["pixel_values"] = noised(inputs, context.vlm.model.config, self.noise_step, context.decoding.seed)
            branch = Branch(context.vlm.model, inputs)
        options: dict[str, Any] = {}
        if self.sample:
            options = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        yield GenerateOverrides((Contrast(self.combine, branch),), options)

    def combine(self, own: Tensor, other: Tensor | None) -> Tensor:
        """New scores [R, V] from log-probabilities [R, V] for the picture and for the noised one."""
        contrasted = own if other is None else (1 + self.alpha) * own - self.alpha * other
        return plausible(contrasted, own, self.beta)


def noised(inputs: dict[str, Tensor], config: Any, step: int, seed: int) -> Tensor:
    """The normalised pixels as the forward diffusion leaves them at a step.

    `sqrt(abar) x + sqrt(1 - abar) eps` with `beta_t = sigmoid(linspace(-6, 6, 1000)) (5e-3 - 1e-5) + 1e-5`.

    Args:
        inputs: with `pixel_values`: [B, C, H, W], or patches [n, C T p p] with `image_grid_thw` [B, 3].
        config: the model's.
        step: counted from 0.
        seed: of the noise.

    Returns:
        Pixels of the same shape and type.

    Raises:
        MethodError: the pixels come in another shape.
    """
    betas = torch.sigmoid(torch.linspace(-6, 6, STEPS)) * (5e-3 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, dim=0)[step]
    pixels = inputs["pixel_values"]
    grid = inputs.get("image_grid_thw")
    if pixels.ndim == 4 and grid is None:
        noise = _draw(pixels.shape[1:], seed).expand_as(pixels)
    elif pixels.ndim == 2 and grid is not None:
        frames = int(config.vision_config.temporal_patch_size)
        side = int(config.vision_config.patch_size)
        parts = []
        for count in grid.prod(dim=-1).tolist():
            one = _draw((count, pixels.shape[1] // (frames * side * side), 1, side, side), seed)
            parts.append(one.expand(-1, -1, frames, -1, -1).reshape(count, -1))
        noise = torch.cat(parts)
    else:
        raise MethodError(
            f"visual-contrast: the pixels have the shape {tuple(pixels.shape)}, expected whole pictures [B, C, H, W] "
            "or flattened patches with their grid: this family's pictures cannot be noised yet"
        )
    noisy = kept.sqrt() * pixels.float().cpu() + (1 - kept).sqrt() * noise
    return noisy.to(pixels.device, pixels.dtype)


def _draw(shape: Any, seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
