"""Stable Diffusion 3 and 3.5: joint attention, image before text, CLIP and T5 tokens one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape
from grounding.diffusion.tokens import TextToken, padded, refuse_long, tokenize


class StableDiffusion3(DiffusionSource):
    """SD3 and SD3.5, with or without their T5 encoder.

    The text sequence holds the prompt twice: 77 positions of both CLIP encoders, whose states stand in one token, then
    T5's. A word owns its tokens of both. SD3.5-medium's second attention (`attn2`) sees the image alone and is not
    read.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    attention = "image-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("drop", "ignore", "keep")
    guidance = "negative-first"
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1}
    concept_streams = True
    text_length = 256

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The joint attention of every block."""
        return [block.attn for block in self.transformer.transformer_blocks]

    @property
    def tokenizer(self) -> Any:
        """CLIP's tokenizer, which both CLIP encoders share up to its padding."""
        return self.pipe.tokenizer

    @property
    def longest(self) -> int:
        """Most tokens of T5's prompt; 0 without T5."""
        return min(self.text_length, int(self.pipe.tokenizer_3.model_max_length)) if self._has_t5 else 0

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """CLIP's tokens and then T5's, each with its padding where a length is given."""
        clip, t5 = self._tokens(text)
        if length is None:
            return (*clip, *t5)
        own = int(self.pipe.tokenizer_max_length)
        filler = self.pipe.tokenizer_3 if self._has_t5 else self.tokenizer
        return (*padded(clip, own, self.tokenizer), *padded(t5, length - own, filler))

    def encode(self, text: str) -> Encoded:
        """Encode by all text encoders; without padding, CLIP's states are cut, which its causal encoder allows."""
        clip, t5 = self._tokens(text)
        own = int(self.pipe.tokenizer_max_length)
        length = self.encoded_length(len(t5)) if self._has_t5 else self.text_length
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            text, text, text, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        if self.pads == "drop":
            embeds = torch.cat([embeds[:, : len(clip)], embeds[:, own : own + len(t5)]], dim=1)
            tokens: tuple[TextToken, ...] = (*clip, *t5)
        else:
            tokens = self.tokens(text, own + length)
        inputs = {"encoder_hidden_states": embeds.to(self.dtype), "pooled_projections": pooled.to(self.dtype)}
        return Encoded(tokens, inputs)

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, shifted and scaled."""
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Latents as they are; the time counts to 1000."""
        timestep = torch.full((1,), 1000 * level, device=self.device)
        return {**encoded.inputs, "hidden_states": noisy, "timestep": timestep}

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        batch, _, height, width = given["hidden_states"].shape
        shape = LatentShape(1, height // self.patch, width // self.patch)
        return Observed(int(batch), int(given["encoder_hidden_states"].shape[1]), shape)

    @property
    def _has_t5(self) -> bool:
        return self.pipe.text_encoder_3 is not None

    def _tokens(self, text: str) -> tuple[tuple[TextToken, ...], tuple[TextToken, ...]]:
        """CLIP's tokens and T5's, without padding."""
        clip = tokenize(self.tokenizer, text)
        refuse_long(clip, int(self.pipe.tokenizer_max_length), "CLIP", self.name)
        if not self._has_t5:
            return clip, ()
        t5 = tokenize(self.pipe.tokenizer_3, text)
        refuse_long(t5, self.longest, "T5", self.name)
        return clip, t5
