"""FLUX.2: joint attention in double and single blocks, text before image, text states of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from grounding.attention.events import Pass
from grounding.diffusion.flux import Flux
from grounding.diffusion.prompts import Encoded, Observed
from grounding.diffusion.reading import Pads
from grounding.diffusion.sequence import LatentShape
from grounding.diffusion.tokens import TextToken, in_chat, padded, refuse_long, rendered, tokenize


class Flux2Klein(Flux):
    """FLUX.2 [klein], whose text encoder is Qwen3; reference pictures are not read.

    Unlike FLUX.1's, text tokens have positions inside the transformer, and padding (to 512 tokens) is attended to. Text
    states mask it, so a prompt encoded at its own length has the same states.
    """

    pipelines = ("Flux2KleinPipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    pad_rules: ClassVar[tuple[Pads, ...]] = ("drop", "ignore", "keep")
    per_token: ClassVar[Mapping[str, int]] = {}
    concept_streams = False
    encoder = "Qwen3"

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.pipe.tokenizer

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of the whole chat message."""
        whole, start = in_chat(self.tokenizer, text, add_generation_prompt=True, enable_thinking=False)
        tokens = tokenize(self.tokenizer, whole, start=start, stop=start + len(text))
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer)

    def encode(self, text: str) -> Encoded:
        """Encode as a chat message."""
        length = self.encoded_length(len(self.tokens(text)))
        embeds, ids = self.pipe.encode_prompt(text, device=self.device, max_sequence_length=length)
        return Encoded(self.tokens(text, length), {"encoder_hidden_states": embeds.to(self.dtype), "txt_ids": ids})

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, packed two by two and standardised by its batch statistics."""
        latents: Tensor = self.pipe._encode_vae_image(pixels, None)
        return latents

    def latent_shape(self, latents: Tensor) -> LatentShape:
        """The latents are packed already, one per cell."""
        return LatentShape(1, int(latents.shape[-2]), int(latents.shape[-1]))

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """One token per packed latent, with its row and column as ids."""
        inputs: dict[str, Any] = {
            **encoded.inputs,
            "hidden_states": self.pipe._pack_latents(noisy),
            "img_ids": self.pipe._prepare_latent_ids(noisy).to(self.device),
            "timestep": torch.full((1,), level, device=self.device, dtype=self.dtype),
            "guidance": None,
        }
        if getattr(self.transformer.config, "guidance_embeds", True):  # the first releases had no model without it
            inputs["guidance"] = torch.full((1,), self.reading.guidance, device=self.device, dtype=torch.float32)
        return inputs

    def observe(self, running: Pass) -> Observed:
        """Read batch, text length and grid off the call; ids of time above 0 are those of reference pictures."""
        given = running.inputs or {}
        ids = given["img_ids"][0]
        own = ids[ids[:, 0] == 0]
        height, width = (int(own[:, axis].max()) + 1 for axis in (1, 2))
        batch, length = int(given["hidden_states"].shape[0]), int(given["encoder_hidden_states"].shape[1])
        return Observed(batch, length, LatentShape(1, height, width))


class Flux2(Flux2Klein):
    """FLUX.2 [dev], whose text encoder is Mistral 3 with a system message; reference pictures are not read.

    Text tokens have positions, which padding may shift, so the prompt is padded as in training unless asked otherwise.
    """

    pipelines = ("Flux2Pipeline",)
    pad_rules: ClassVar[tuple[Pads, ...]] = ("ignore", "keep", "drop")
    encoder = "Mistral 3"

    @property
    def tokenizer(self) -> Any:
        """The tokenizer inside the pipeline's processor."""
        return self.pipe.tokenizer.tokenizer

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of the whole conversation."""

        def render(content: str) -> str:
            messages = [
                {"role": role, "content": [{"type": "text", "text": part}]}
                for role, part in (("system", self.pipe.system_message), ("user", content))
            ]
            return str(self.pipe.tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False))

        whole, start = rendered(render, text)
        bos = self.tokenizer.bos_token
        tokens = tokenize(
            self.tokenizer,
            whole,
            start=start,
            stop=start + len(text),
            add_special_tokens=not (bos and whole.startswith(bos)),  # as the processor does
        )
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer)
