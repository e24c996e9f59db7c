"""Wan: clips; cells attend to text in a cross attention of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.latents import standardised
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape
from grounding.errors import ModelError


class Wan(DiffusionSource):
    """Wan 2.1 and the 5B model of Wan 2.2, text to video.

    Behind the prompt stand states of zero, which the cross attention reads like text. The models of Wan 2.2 with one
    transformer for high and one for low noise are refused.

    Raises:
        ModelError: the pipeline has two transformers.
    """

    pipelines = ("WanPipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "cross"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("ignore", "keep", "drop")
    video = True
    guidance = "calls"
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1}
    encoder = "UMT5"
    text_length = 512

    def __init__(self, pipe: Any, *args: Any, **options: Any) -> None:
        super().__init__(pipe, *args, **options)
        if getattr(pipe, "transformer_2", None) is not None:
            raise ModelError(
                f"{self.name} has two transformers, one for high and one for low noise, of which maps would show one: "
                "expected a Wan model with one, such as Wan 2.1 or the 5B model of Wan 2.2"
            )

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The cross attention of every block."""
        return [block.attn2 for block in self.transformer.blocks]

    @property
    def tokenizer(self) -> Any:
        """UMT5's tokenizer."""
        return self.pipe.tokenizer

    @property
    def native_size(self) -> tuple[int, int]:
        """The size of the small models."""
        return 480, 832

    @property
    def latent_pixels(self) -> int:
        """The VAE's spatial factor."""
        return int(self.pipe.vae_scale_factor_spatial)

    @property
    def frames_per_latent(self) -> int:
        """The VAE's temporal factor."""
        return int(self.pipe.vae_scale_factor_temporal)

    def encode(self, text: str) -> Encoded:
        """Encode by UMT5, with states of zero behind the prompt unless they are dropped."""
        length = self.encoded_length(len(self.tokens(text)))
        embeds, _ = self.pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )
        return Encoded(self.tokens(text, length), {"encoder_hidden_states": embeds.to(self.dtype)})

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, standardised by channel."""
        vae = self.pipe.vae
        return standardised(vae.encode(pixels).latent_dist.mode(), vae.config.latents_mean, vae.config.latents_std)

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Latents as they are; the time counts to 1000, per cell where the model wants it so."""
        cells = self.latent_shape(noisy).cells
        shape = (1, cells) if self.pipe.config.expand_timesteps else (1,)
        timestep = torch.full(shape, 1000 * level, device=self.device)
        return {**encoded.inputs, "hidden_states": noisy, "timestep": timestep}

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        latents = given["hidden_states"]
        length = int(given["encoder_hidden_states"].shape[1])
        frames, height, width = (int(side) for side in latents.shape[2:])
        return Observed(len(latents), length, LatentShape(frames, height // self.patch, width // self.patch))
