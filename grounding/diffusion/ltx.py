"""LTX-Video: clips; cells attend to masked T5 text in a cross attention of their own."""

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

_FRAME_RATE = 25  # frames a second, which scale the temporal positions


class LTXVideo(DiffusionSource):
    """LTX-Video, text to video; one latent is one cell, and padding is masked by the model itself."""

    pipelines = ("LTXPipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "cross"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("mask", "keep", "drop")
    video = True
    patch = 1
    guidance = "negative-first"
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1, "encoder_attention_mask": 1}
    text_length = 128

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The cross attention of every block."""
        return [block.attn2 for block in self.transformer.transformer_blocks]

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer."""
        return self.pipe.tokenizer

    @property
    def native_size(self) -> tuple[int, int]:
        """The pipeline's own size."""
        return 512, 704

    @property
    def latent_pixels(self) -> int:
        """The VAE's spatial factor."""
        return int(self.pipe.vae_spatial_compression_ratio)

    @property
    def frames_per_latent(self) -> int:
        """The VAE's temporal factor."""
        return int(self.pipe.vae_temporal_compression_ratio)

    def encode(self, text: str) -> Encoded:
        """Encode by T5, with the mask of its padding."""
        return encode_masked(self, text)

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, standardised by channel."""
        vae = self.pipe.vae
        return standardised(vae.encode(pixels).latent_dist.mode(), vae.latents_mean, vae.latents_std)

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Pack latents; the time counts to 1000."""
        _, _, frames, height, width = noisy.shape
        factor = self.latent_pixels
        return {
            **encoded.inputs,
            "hidden_states": self.pipe._pack_latents(noisy, self.patch, 1),
            "timestep": torch.full((1,), 1000 * level, device=self.device),
            "num_frames": frames,
            "height": height,
            "width": width,
            "rope_interpolation_scale": (self.frames_per_latent / _FRAME_RATE, factor, factor),
        }

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        shape = LatentShape(int(given["num_frames"]), int(given["height"]), int(given["width"]))
        return Observed(len(given["hidden_states"]), int(given["encoder_hidden_states"].shape[1]), shape)
