"""Lumina-Image 2.0: one stream, caption before image; the caption's padding never reaches the joint blocks."""

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
from grounding.diffusion.tokens import TextToken, padded, refuse_long, tokenize


class Lumina2(DiffusionSource):
    """Lumina-Image 2.0: Gemma 2 reads the prompt behind the pipeline's system prompt.

    Single-stream blocks follow two refiners, which see image or caption alone and are not read. The system prompt's
    tokens are special ones.
    """

    pipelines = ("Lumina2Pipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "text-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("drop",)
    guidance = "calls"
    encoder = "Gemma 2"
    text_length = 256

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of the single-stream blocks."""
        return [block.attn for block in self.transformer.layers]

    @property
    def tokenizer(self) -> Any:
        """Gemma's tokenizer."""
        return self.pipe.tokenizer

    @property
    def native_size(self) -> tuple[int, int]:
        """The pipeline's own size."""
        return int(self.pipe.default_image_size), int(self.pipe.default_image_size)

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of the system prompt and the prompt."""
        lead = f"{self.pipe.system_prompt} <Prompt Start> "
        tokens = tokenize(self.tokenizer, lead + text, start=len(lead))
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer, "right")

    def encode(self, text: str) -> Encoded:
        """Encode by Gemma at the prompt's own length, which padding behind it would not change."""
        tokens = self.tokens(text)
        embeds, mask, *_ = self.pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=len(tokens), device=self.device
        )
        return Encoded(tokens, {"encoder_hidden_states": embeds.to(self.dtype), "encoder_attention_mask": mask})

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, shifted and scaled."""
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Latents as they are; the time counts from noise (0) to clean (1)."""
        return {**encoded.inputs, "hidden_states": noisy, "timestep": torch.full((1,), 1 - level, device=self.device)}

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length without padding, and grid off the call."""
        given = running.inputs or {}
        latents = given["hidden_states"]
        length = int(given["encoder_attention_mask"][0].sum())
        height, width = (int(side) // self.patch for side in latents.shape[2:])
        return Observed(len(latents), length, LatentShape(1, height, width))
