"""Append magnets to a prompt: encoded alone and joined to the prompt's states, or inside its string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounding.diffusion.prompts import Encoded, TextPrompt
from grounding.errors import ModelError
from grounding.text.kinds import kind_of, normal
from grounding.text.vocabulary import refuse_unknown
from grounding.types import MagnetWords, Word, WordKind

if TYPE_CHECKING:
    from grounding.diffusion.base import DiffusionSource


class PromptMagnets:
    """The magnets of one source's prompts; what was encoded alone is kept.

    Args:
        source: encodes prompts.
    """

    def __init__(self, source: DiffusionSource) -> None:
        self._source = source
        self._alone: dict[str, Encoded] = {}

    def prompt(self, prompt: TextPrompt, magnets: MagnetWords | None) -> TextPrompt:
        """The prompt that is read, with inline magnets behind it.

        Raises:
            ModelError: magnets are to be encoded alone, and the family's states cannot be joined.
        """
        if magnets is None:
            return prompt
        if magnets.encoding == "separate":
            self._check_joinable()
            return prompt
        text, words = prompt.text, list(prompt.words)
        for magnet in _used(prompt, magnets):
            start = len(text) + 1
            text = f"{text} {magnet}"
            words.append(Word(magnet, (start, len(text)), (), WordKind.MAGNET))
        return replace(prompt, text=text, words=tuple(words))

    def encode(self, prompt: TextPrompt, magnets: MagnetWords | None) -> Encoded:
        """Encode a prompt, followed by the magnets that are encoded alone; what is pooled is the prompt's own.

        Args:
            prompt: as `prompt` gave it.
            magnets: the magnets.

        Raises:
            ExpressionError: a magnet is outside the vocabulary.
        """
        encoded = self._source.encode(prompt.text)
        if magnets is None or magnets.encoding == "inline":
            return encoded
        parts = [encoded, *(self._encode_alone(magnet) for magnet in _used(prompt, magnets))]
        joined = {
            name: torch.cat([part.inputs[name] for part in parts], dim=axis)
            for name, axis in self._source.per_token.items()
        }
        return Encoded(tuple(token for part in parts for token in part.tokens), {**encoded.inputs, **joined})

    def _check_joinable(self) -> None:
        if not self._source.per_token:
            raise ModelError(
                f"{self._source.name} ({type(self._source).__name__}) numbers its text tokens or reads them as a chat "
                "message, so magnets cannot be encoded alone: write 'encoding: inline' in the method's stage 'magnets'"
            )

    def _encode_alone(self, magnet: str) -> Encoded:
        """The magnet's own tokens and their states, without padding."""
        if magnet not in self._alone:
            source = self._source
            # Padding, where the text encoder sees it, changes the states of the tokens before it.
            alone = source.with_reading(pads="drop") if "drop" in source.pad_rules else source
            encoded = alone.encode(magnet)
            own = [i for i, token in enumerate(encoded.tokens) if token.role != "pad"]
            ids = [source.tokenizer.unk_token_id if encoded.tokens[i].unknown else -1 for i in own]
            refuse_unknown(magnet, ids, source.tokenizer, source.name)
            self._alone[magnet] = Encoded(
                tuple(replace(encoded.tokens[i], role="magnet", span=(0, 0)) for i in own),
                {name: _picked(encoded.inputs[name], own, axis) for name, axis in source.per_token.items()},
            )
        return self._alone[magnet]


def _used(prompt: TextPrompt, magnets: MagnetWords) -> Sequence[str]:
    """The magnets without the content words that the prompt holds."""
    held = {normal(word.text) for word in prompt.words}
    return [
        magnet
        for magnet in magnets.texts
        if not (magnets.skip_content and kind_of(magnet) is WordKind.CONTENT and normal(magnet) in held)
    ]


def _picked(values: Any, indices: Sequence[int], axis: int) -> Tensor:
    tensor: Tensor = values
    return tensor.index_select(axis, torch.tensor(indices, device=tensor.device))
