"""Encode a prompt for a transformer that takes the mask of the prompt's padding (LTX, Mochi)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounding.diffusion.prompts import Encoded

if TYPE_CHECKING:
    from grounding.diffusion.base import DiffusionSource


def encode_masked(source: DiffusionSource, text: str) -> Encoded:
    """Encode by the pipeline's own encoder, without guidance.

    Args:
        source: its pipeline's `encode_prompt` returns the states [1, T, D] and their mask [1, T] first.
        text: the prompt.
    """
    length = source.encoded_length(len(source.tokens(text)))
    embeds, mask, *_ = source.pipe.encode_prompt(
        text, do_classifier_free_guidance=False, max_sequence_length=length, device=source.device
    )
    inputs = {"encoder_hidden_states": embeds.to(source.dtype), "encoder_attention_mask": mask}
    return Encoded(source.tokens(text, length), inputs)
