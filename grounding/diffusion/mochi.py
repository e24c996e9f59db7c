"""Mochi: clips; joint attention, video before text, padding removed before every attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.latents import standardised
from grounding.diffusion.masked_text import encode_masked
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape


class Mochi(DiffusionSource):
    """Mochi 1, text to video; each element of a batch attends in a call of its own."""

    pipelines = ("MochiPipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "image-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("mask",)
    video = True
    guidance = "negative-first"
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1, "encoder_attention_mask": 1}
    text_length = 256

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of every block."""
        return [block.attn1 for block in self.transformer.transformer_blocks]

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer."""
        return self.pipe.tokenizer

    @property
    def native_size(self) -> tuple[int, int]:
        """The pipeline's own size."""
        return int(self.pipe.default_height), int(self.pipe.default_width)

    @property
    def latent_pixels(self) -> int:
        """The VAE's spatial factor."""
        return int(self.pipe.vae_spatial_scale_factor)

    @property
    def frames_per_latent(self) -> int:
        """The VAE's temporal factor."""
        return int(self.pipe.vae_temporal_scale_factor)

    def encode(self, text: str) -> Encoded:
        """Encode by T5, with the mask of its padding."""
        return encode_masked(self, text)

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, standardised by channel where its config has the statistics."""
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode()
        mean, std, factor = vae.config.latents_mean, vae.config.latents_std, vae.config.scaling_factor
        return latents * factor if mean is None or std is None else standardised(latents, mean, std, factor)

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Latents as they are; the time counts from noise (0) to clean (1000)."""
        timestep = torch.full((1,), 1000 * (1 - level), device=self.device)
        return {**encoded.inputs, "hidden_states": noisy, "timestep": timestep}

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        latents = given["hidden_states"]
        frames, height, width = (int(side) for side in latents.shape[2:])
        shape = LatentShape(frames, height // self.patch, width // self.patch)
        return Observed(len(latents), int(given["encoder_hidden_states"].shape[1]), shape)
