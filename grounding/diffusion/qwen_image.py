"""Qwen-Image: joint attention, text before image, text states of a vision-language model inside a chat template."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grounding.attention.events import Pass
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.latents import standardised
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape
from grounding.diffusion.tokens import TextToken, padded, refuse_long, tokenize


class QwenImage(DiffusionSource):
    """Qwen-Image: Qwen2.5-VL reads the prompt in a fixed template, whose first tokens are cut off afterwards.

    What is left of the template behind the prompt (end of turn, start of the answer) stays text, as special words. One
    prompt has no padding.
    """

    pipelines = ("QwenImagePipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "text-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("drop",)
    guidance = "calls"
    encoder = "Qwen2.5-VL"
    text_length = 1024

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of every block."""
        return [block.attn for block in self.transformer.transformer_blocks]

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.pipe.tokenizer

    @property
    def longest(self) -> int:
        """Most tokens of a prompt, the end of the template included."""
        return min(self.text_length, int(self.pipe.tokenizer_max_length))

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens behind those that the pipeline cuts off."""
        template = self.pipe.prompt_template_encode
        start = template.index("{}")
        whole = tokenize(self.tokenizer, template.format(text), start=start, stop=start + len(text))
        tokens = whole[self.pipe.prompt_template_encode_start_idx :]
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer)

    def encode(self, text: str) -> Encoded:
        """Encode in the pipeline's template."""
        embeds, mask = self.pipe.encode_prompt(text, device=self.device)
        inputs = {"encoder_hidden_states": embeds.to(self.dtype), "encoder_hidden_states_mask": mask}
        return Encoded(self.tokens(text), inputs)

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode as a clip of one frame."""
        vae = self.pipe.vae
        latents = vae.encode(pixels[:, :, None]).latent_dist.mode()
        return standardised(latents, vae.config.latents_mean, vae.config.latents_std)[:, :, 0]

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Pack latents two by two; the transformer numbers rows and columns itself."""
        _, channels, height, width = noisy.shape
        inputs: dict[str, Any] = {
            **encoded.inputs,
            "hidden_states": self.pipe._pack_latents(noisy, 1, channels, height, width),
            "timestep": torch.full((1,), level, device=self.device, dtype=self.dtype),
            "img_shapes": [[(1, height // self.patch, width // self.patch)]],
        }
        if "txt_seq_lens" in inspect.signature(self.transformer.forward).parameters:  # until diffusers 0.37
            inputs["txt_seq_lens"] = [len(encoded.tokens)]
        if self.transformer.config.guidance_embeds:
            inputs["guidance"] = torch.full((1,), self.reading.guidance, device=self.device, dtype=torch.float32)
        return inputs

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call."""
        given = running.inputs or {}
        _, height, width = given["img_shapes"][0][0]
        batch, length = int(given["hidden_states"].shape[0]), int(given["encoder_hidden_states"].shape[1])
        return Observed(batch, length, LatentShape(1, int(height), int(width)))
