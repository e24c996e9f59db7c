"""Pictures to pixels, and noise for their latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grounding.errors import ImageError


def pixels_of(frames: Sequence[Image.Image], size: tuple[int, int], *, video: bool) -> Tensor:
    """Resize pictures to a size, aspect not kept, and scale them to [-1, 1].

    Args:
        frames: RGB pictures of one size; one, unless they are a clip.
        size: (height, width) in pixels.
        video: whether the model reads clips.

    Returns:
        [1, 3, H, W], or [1, 3, F, H, W] for a clip, float32.

    Raises:
        ImageError: a clip has no frames, or frames of several sizes.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ImageError(f"a clip needs frames of one size, got {sorted(sizes) or 'no frame'}")
    height, width = size
    resized = [np.asarray(f.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 127.5 - 1  # [F, 3, H, W]
    return pixels.transpose(0, 1)[None] if video else pixels


def standardised(latents: Tensor, mean: Any, std: Any, factor: float = 1.0) -> Tensor:
    """Subtract each channel's mean and divide by its standard deviation.

    Args:
        latents: [1, C, f, h, w].
        mean: C numbers.
        std: C numbers.
        factor: multiplied afterwards.
    """
    shift, scale = (
        torch.as_tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
        for values in (mean, std)
    )
    return (latents - shift) * factor / scale


def draw_noise(latents: Tensor, seed: int) -> Tensor:
    """Draw standard normal noise of the latents' shape; it depends on the shape and the seed, not on the device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents.shape, generator=generator).to(latents.device)


def mixed(latents: Tensor, noise: Tensor, level: float) -> Tensor:
    """Mix noise into latents as flow matching does: (1 - level) latents + level noise."""
    return (1 - level) * latents + level * noise
