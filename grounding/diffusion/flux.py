"""FLUX.1: joint attention in double and single blocks, text before image, T5 text without a mask."""

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


class Flux(DiffusionSource):
    """FLUX.1 [dev] and [schnell], and models of their classes.

    T5 tokens are the text of every block; CLIP gives one pooled vector and no tokens. Text tokens have no position
    inside the transformer, and padding is attended to like text unless it is dropped or masked.
    """

    pipelines = ("FluxPipeline",)
    required: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
    )
    attention = "text-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("drop", "ignore", "keep", "mask")
    guidance = "calls"
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1, "txt_ids": 0}
    concept_streams = True
    text_length = 512

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of the double blocks, then of the single blocks."""
        blocks = (*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks)
        return [block.attn for block in blocks]

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer."""
        return self.pipe.tokenizer_2

    def encode(self, text: str) -> Encoded:
        """Encode by T5 at the prompt's own length or padded, and by CLIP to its pooled vector."""
        length = self.encoded_length(len(self.tokens(text)))
        embeds, pooled, ids = self.pipe.encode_prompt(text, text, device=self.device, max_sequence_length=length)
        inputs = {
            "encoder_hidden_states": embeds.to(self.dtype),
            "pooled_projections": pooled.to(self.dtype),
            "txt_ids": ids.to(self.dtype),
        }
        return Encoded(self.tokens(text, length), inputs)

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, shifted and scaled, before packing."""
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Pack latents two by two, with their row and column as ids."""
        packed = self.packed(noisy)
        inputs: dict[str, Any] = {
            **encoded.inputs,
            **packed,
            "timestep": torch.full((1,), level, device=self.device, dtype=self.dtype),
        }
        if self.transformer.config.guidance_embeds:
            inputs["guidance"] = torch.full((1,), self.reading.guidance, device=self.device, dtype=torch.float32)
        if self.pads == "mask":
            real = torch.tensor([token.role != "pad" for token in encoded.tokens], device=self.device)
            mask = torch.nn.functional.pad(real, (0, packed["hidden_states"].shape[1]), value=True)
            inputs["joint_attention_kwargs"] = {"attention_mask": mask[None, None, None]}
        return inputs

    def packed(self, noisy: Tensor) -> dict[str, Tensor]:
        """Latents packed two by two, and the row and column of each cell."""
        _, channels, height, width = noisy.shape
        return {
            "hidden_states": self.pipe._pack_latents(noisy, 1, channels, height, width),
            "img_ids": self.pipe._prepare_latent_image_ids(1, height // 2, width // 2, self.device, self.dtype),
        }

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        ids = given["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        height, width = (int(ids[:, axis].max()) + 1 for axis in (1, 2))
        batch, length = int(given["hidden_states"].shape[0]), int(given["encoder_hidden_states"].shape[1])
        return Observed(batch, length, LatentShape(1, height, width))
