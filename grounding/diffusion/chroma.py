"""Chroma: FLUX.1's blocks without CLIP, of which text padding is to hold one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from grounding.diffusion.flux import Flux
from grounding.diffusion.prompts import Encoded
from grounding.diffusion.reading import Pads


class Chroma(Flux):
    """Chroma 1, which was trained with all padding but the first token masked.

    By its own rule, `mask`, a prompt is encoded with one token of padding and attention needs no mask: what is masked
    for all others changes nothing. `ignore` and `keep` run as diffusers' pipeline does, padded to the full length and
    with its mask; up to diffusers 0.42 that holds zeros and ones in floating point, which torch adds to the logits, so
    that padding is attended to.
    """

    pipelines = ("ChromaPipeline",)
    required: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer")
    concept_streams = False
    pad_rules: ClassVar[tuple[Pads, ...]] = ("mask", "drop", "ignore", "keep")
    per_token: ClassVar[Mapping[str, int]] = {"encoder_hidden_states": 1, "txt_ids": 0, "attention_mask": 1}

    @property
    def tokenizer(self) -> Any:
        """T5's tokenizer."""
        return self.pipe.tokenizer

    def encoded_length(self, own: int) -> int:
        """Positions that a prompt is encoded at; with the rule `mask` one more than its own."""
        return min(own + 1, self.longest) if self.pads == "mask" else super().encoded_length(own)

    def encode(self, text: str) -> Encoded:
        """Encode by T5, which does not see the padding."""
        length = self.encoded_length(len(self.tokens(text)))
        embeds, ids, mask, *_ = self.pipe.encode_prompt(
            text, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        inputs = {"encoder_hidden_states": embeds.to(self.dtype), "txt_ids": ids.to(self.dtype), "attention_mask": mask}
        return Encoded(self.tokens(text, length), inputs)

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """Pack latents as FLUX does; the mask is the pipeline's where padding is in the network."""
        packed = self.packed(noisy)
        mask = None
        if self.pads in ("ignore", "keep"):
            cells = packed["hidden_states"].shape[1]
            mask = self.pipe._prepare_attention_mask(1, cells, self.dtype, encoded.inputs["attention_mask"])
        timestep = torch.full((1,), level, device=self.device, dtype=self.dtype)
        return {**encoded.inputs, **packed, "timestep": timestep, "attention_mask": mask}
