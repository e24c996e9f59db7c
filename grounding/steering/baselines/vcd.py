"""Visual contrastive decoding (VCD): contrast the prediction with that for a noised image."""

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
from grounding.steering.vision import pixels_name

STEPS = 1000
"""Steps of the forward diffusion."""


@dataclass(frozen=True)
class VisualContrast:
    """Score tokens by `(1 + alpha) z - alpha z'`, with z' the logits for a noised image.

    Leng et al., CVPR 2024, arXiv 2311.16922. Log-probabilities are used in place of logits; they differ by a constant
    per row, which the softmax removes.

    Attributes:
        alpha: contrast strength, >= 0; 0 does not run the second branch and keeps the plausibility cut.
        beta: exclude tokens whose probability is below this share of the most probable token's, in [0, 1].
        noise_step: step of the forward diffusion applied to the normalised pixels, from 0 to `STEPS` - 1.
        sample: sample from the full distribution at temperature 1, as published; False uses the decoding's settings.

    Raises:
        MethodError: a value is out of range.

    Notes:
        The noise is drawn on the CPU from the decoding's seed, restarted for each image, so that it does not depend on
        the batch; the paper does not specify this. Where an image's frame is repeated within a patch (Qwen2.5-VL), all
        copies get the same noise, as if the image had been noised before it was split into patches.
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
        """Add one logits processor and, with `sample`, the settings of sampling; see `Intervention`."""
        branch = None
        if self.alpha != 0:
            inputs = dict(context.prepared.inputs)
            pixels = noised(inputs, context.vlm.model.config, self.noise_step, context.decoding.seed)
            inputs[pixels_name(inputs, self.name)] = pixels
            branch = Branch(context.vlm.model, inputs)
        options: dict[str, Any] = {}
        if self.sample:
            options = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        yield GenerateOverrides((Contrast(self.combine, branch),), options)

    def combine(self, own: Tensor, other: Tensor | None) -> Tensor:
        """Compute new scores [R, V] from log-probabilities [R, V] for the image and for the noised image."""
        contrasted = own if other is None else (1 + self.alpha) * own - self.alpha * other
        return plausible(contrasted, own, self.beta)


def noised(inputs: dict[str, Tensor], config: Any, step: int, seed: int) -> Tensor:
    """Apply the forward diffusion to the normalised pixels.

    x' = sqrt(abar_t) x + sqrt(1 - abar_t) eps, with abar_t the product of 1 - beta_s over s <= t and
    beta_s = sigmoid(linspace(-6, 6, 1000))_s (5e-3 - 1e-5) + 1e-5.

    Args:
        inputs: with `pixel_values`: [B, C, H, W]; or the tiles of every prompt's pictures [B, I, tiles, C, H, W]; or
            patches [n, C T p p] with `image_grid_thw` [B, 3]. Or with `image_pixel_values` [n, tiles, C, H, W].
        config: of the model.
        step: t, counted from 0.
        seed: of the noise.

    Returns:
        Pixels of the same shape and dtype.

    Raises:
        MethodError: the pixels have another shape, or there are none of pictures.
    """
    betas = torch.sigmoid(torch.linspace(-6, 6, STEPS)) * (5e-3 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, dim=0)[step]
    name = pixels_name(inputs, VisualContrast.name)
    pixels, grid = inputs[name], inputs.get("image_grid_thw")
    whole = (4, 6) if name == "pixel_values" else (5,)
    if pixels.ndim in whole and grid is None:
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
            f"visual-contrast: the pixels have the shape {tuple(pixels.shape)}, expected whole pictures [B, C, H, W], "
            "tiles [B, I, tiles, C, H, W] or flattened patches with their grid: this family's pictures cannot be "
            "noised yet"
        )
    noisy = kept.sqrt() * pixels.float().cpu() + (1 - kept).sqrt() * noise
    return noisy.to(pixels.device, pixels.dtype)


def _draw(shape: Any, seed: int) -> Tensor:
    """Draw standard normal noise of a shape on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
