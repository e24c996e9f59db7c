"""Z-Image: one stream, image before caption, each padded to a multiple of 32 inside the transformer."""

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
from grounding.diffusion.tokens import TextToken, in_chat, padded, refuse_long, tokenize

_MULTIPLE = 32  # to which the transformer pads image and caption


class ZImage(DiffusionSource):
    """Z-Image: Qwen3 reads the prompt as a chat message; single-stream blocks follow two refiners.

    The refiners see image or caption alone and are not read. The transformer's own padding takes part in its attention;
    it is left out of maps unless it is kept.
    """

    pipelines = ("ZImagePipeline",)
    required = ("transformer", "vae", "text_encoder", "tokenizer")
    attention = "image-first"
    pad_rules: ClassVar[tuple[Pads, ...]] = ("ignore", "keep")
    guidance = "prompt-first"
    encoder = "Qwen3"
    text_length = 512

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention of the single-stream blocks."""
        return [block.attention for block in self.transformer.layers]

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.pipe.tokenizer

    def starts(self, cells: int, text: int) -> tuple[int, int]:
        """The caption stands behind the padded image."""
        return 0, _rounded(cells)

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of the whole chat message."""
        whole, start = in_chat(self.tokenizer, text, add_generation_prompt=True, enable_thinking=True)
        tokens = tokenize(self.tokenizer, whole, start=start, stop=start + len(text))
        refuse_long(tokens, self.longest, self.encoder, self.name)
        return tokens if length is None else padded(tokens, length, self.tokenizer, "right")

    def encode(self, text: str) -> Encoded:
        """Encode as a chat message."""
        embeds, _ = self.pipe.encode_prompt(text, device=self.device, do_classifier_free_guidance=False)
        tokens = self.tokens(text)
        return Encoded(self.tokens(text, _rounded(len(tokens))), {"cap_feats": [one.to(self.dtype) for one in embeds]})

    def clean_latents(self, pixels: Tensor) -> Tensor:
        """Encode by the VAE, shifted and scaled."""
        vae = self.pipe.vae
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """A list of clips of one frame; the time counts from noise (0) to clean (1)."""
        return {**encoded.inputs, "x": [noisy[0][:, None]], "t": torch.full((1,), 1 - level, device=self.device)}

    def observe(self, running: Pass) -> Observed:
        """Read batch, caption length and grid off the call."""
        given = running.inputs or {}
        pictures, captions = given["x"], given["cap_feats"]
        _, _, height, width = pictures[0].shape
        shape = LatentShape(1, int(height) // self.patch, int(width) // self.patch)
        return Observed(len(pictures), _rounded(len(captions[0])), shape)


def _rounded(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
