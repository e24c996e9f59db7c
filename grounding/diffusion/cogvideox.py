"""CogVideoX: clips; joint attention, text before video, in a model that is not trained by flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape
from grounding.errors import ModelError


class CogVideoX(DiffusionSource):
    """CogVideoX 2B and 5B, text to video; padding is attended to like text.

    A noise level t is the step of the scheduler whose ratio of signal to noise is nearest to (1 - t) : t, that of
    flow matching. CogVideoX 1.5, whose cells span several latent frames, is refused.

    Raises:
        ModelError: the transformer's cells span several latent frames.
    """

    pipelines = ("CogVideoXPipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "text-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("ignore", "keep")
    video = True
    guidance = "negative-first"
    text_length = 226

    def __init__(self, pipe: Any, *args: Any, **options: Any) -> None:
        super().__init__(pipe, *args, **options)
        if self.transformer.config.patch_size_t is not None:
            raise ModelError(
                f"{self.name} joins {self.transformer.config.patch_size_t} latent frames in a cell, as CogVideoX 1.5 "
                "does: expected CogVideoX 2B or 5B"
            )

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of every block."""
        return [block.attn1 for block in self.transformer.transformer_blocks]

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer."""
        return self.pipe.tokenizer

    @property
    def longest(self) -> int:
        """Most tokens of a prompt."""
        return min(int(self.transformer.config.max_text_seq_length), super().longest)

    @property
    def native_size(self) -> tuple[int, int]:
        """The size that the model was trained at."""
        config, unit = self.transformer.config, self.latent_pixels
        return int(config.sample_height) * unit, int(config.sample_width) * unit

    @property
    def latent_pixels(self) -> int:
        """The VAE's spatial factor."""
        return int(self.pipe.vae_scale_factor_spatial)

    @property
    def frames_per_latent(self) -> int:
        """The VAE's temporal factor."""
        return int(self.pipe.vae_scale_factor_temporal)

    @property
    def guided(self) -> bool:
        """Whether the guidance scale is above 1; the pipeline has no property for it."""
        return float(self.pipe.guidance_scale) > 1

    def encoded_length(self, own: int) -> int:
        """Positions of the padded prompt: all of them where positions are added to the states, as in the 2B model."""
        return super().encoded_length(own) if self._rotary else self.longest

    def encode(self, text: str) -> Encoded:
        """Encode by T5, padding included."""
        length = self.encoded_length(len(self.tokens(text)))
        embeds, _ = self.pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )
        return Encoded(self.tokens(text, length), {"encoder_hidden_states": embeds.to(self.dtype)})

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, scaled."""
        vae = self.pipe.vae
        latents: Tensor = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        return latents

    def noisy(self, clean: Tensor, noise: Tensor, level: float) -> Tensor:
        """Mix noise in as the scheduler's step does: the squares of both weights sum to 1."""
        kept = float(self.pipe.scheduler.alphas_cumprod[self._step(level)])
        return kept**0.5 * clean + (1 - kept) ** 0.5 * noise

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Latents with frames before channels, the scheduler's step, and rotary positions where the model has them."""
        frames, height, width = noisy.shape[2:]
        rotary = None
        if self._rotary:
            size = height * self.latent_pixels, width * self.latent_pixels
            rotary = self.pipe._prepare_rotary_positional_embeddings(*size, frames, self.device)
        timestep = torch.full((1,), self._step(level), device=self.device)
        latents = noisy.transpose(1, 2)
        return {**encoded.inputs, "hidden_states": latents, "timestep": timestep, "image_rotary_emb": rotary}

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        latents = given["hidden_states"]
        height, width = (int(side) // self.patch for side in latents.shape[3:])
        shape = LatentShape(int(latents.shape[1]), height, width)
        return Observed(len(latents), int(given["encoder_hidden_states"].shape[1]), shape)

    @property
    def _rotary(self) -> bool:
        return bool(self.transformer.config.use_rotary_positional_embeddings)

    def _step(self, level: float) -> int:
        """The scheduler's step for a noise level."""
        kept = torch.as_tensor(self.pipe.scheduler.alphas_cumprod, dtype=torch.float64)
        share = (1 - kept).sqrt() / (kept.sqrt() + (1 - kept).sqrt())  # of noise, as flow matching counts it
        return int((share - level).abs().argmin())
