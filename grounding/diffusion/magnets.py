"""Append magnets to a prompt: encoded alone and joined to the prompt's states, or inside its string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, ClassVar, Protocol

import torch

from grounding.diffusion.prompts import Encoded, TextPrompt
from grounding.diffusion.reading import Pads
from grounding.diffusion.tokens import TextToken
from grounding.errors import MethodError, ModelError
from grounding.text.kinds import kind_of, normal
from grounding.joint_spec import MagnetWords
from grounding.types import Word, WordKind


class TextEncoding(Protocol):
    """What encodes prompts: the part of a `DiffusionSource` that magnets need."""

    name: str
    per_token: ClassVar[Mapping[str, int]]
    pad_rules: ClassVar[tuple[Pads, ...]]

    def tokens(self, text: str, length: int | None = None) -> tuple[TextToken, ...]:
        """The tokens of a prompt."""

    def encode(self, text: str) -> Encoded:
        """Encode a prompt."""

    def with_reading(self, **changes: Any) -> TextEncoding:
        """The same, with another treatment of padding."""


class PromptMagnets:
    """The magnets of one source's prompts; what was encoded alone is kept.

    Args:
        source: encodes prompts.
    """

    def __init__(self, source: TextEncoding) -> None:
        self._source = source
        self._alone: dict[str, Encoded] = {}

    def prompt(self, prompt: TextPrompt, magnets: MagnetWords | None) -> TextPrompt:
        """The prompt that is read, with inline magnets behind it.

        Raises:
            MethodError: a magnet is outside the vocabulary.
            ModelError: magnets are to be encoded alone, and the family's states cannot be joined.
        """
        if magnets is None:
            return prompt
        self._check_known(magnets)
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
        """Encode a prompt, followed by the magnets that are encoded alone; the pooled states are the prompt's own.

        Args:
            prompt: as `prompt` gave it.
            magnets: the magnets.
        """
        encoded = self._source.encode(prompt.text)
        if magnets is None or magnets.encoding == "inline":
            return encoded
        added = [self._encode_alone(magnet) for magnet in _used(prompt, magnets)]
        # Padding stays last: a transformer that drops it keeps what stands before.
        count = len(encoded.tokens)
        end = count - sum(1 for _ in takewhile(lambda token: token.role == "pad", reversed(encoded.tokens)))
        own, padding = (self._part(encoded, indices) for indices in (range(end), range(end, count)))
        parts = [own, *added, padding]
        joined = {
            name: torch.cat([part.inputs[name] for part in parts], dim=axis)
            for name, axis in self._source.per_token.items()
        }
        return Encoded(tuple(token for part in parts for token in part.tokens), {**encoded.inputs, **joined})

    def _check_known(self, magnets: MagnetWords) -> None:
        for magnet in magnets.texts:
            if any(token.unknown for token in self._source.tokens(magnet)):
                raise MethodError(
                    f"the magnet {magnet!r} is outside the vocabulary of {self._source.name}: name others in the "
                    "method's stage 'magnets', such as 'words: [with, to]'"
                )

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
            own = self._part(encoded, [i for i, token in enumerate(encoded.tokens) if token.role != "pad"])
            tokens = tuple(replace(token, role="magnet", span=(0, 0)) for token in own.tokens)
            self._alone[magnet] = replace(own, tokens=tokens)
        return self._alone[magnet]

    def _part(self, encoded: Encoded, indices: Sequence[int]) -> Encoded:
        """Some tokens of a prompt, with what the transformer takes per token."""
        inputs = {}
        for name, axis in self._source.per_token.items():
            values = encoded.inputs[name]
            inputs[name] = values.index_select(
                axis, torch.tensor(list(indices), dtype=torch.long, device=values.device)
            )
        return Encoded(tuple(encoded.tokens[i] for i in indices), inputs)


def _used(prompt: TextPrompt, magnets: MagnetWords) -> Sequence[str]:
    """The magnets without the content words that the prompt holds."""
    held = {normal(word.text) for word in prompt.words}
    return [
        magnet
        for magnet in magnets.texts
        if not (magnets.skip_content and kind_of(magnet) is WordKind.CONTENT and normal(magnet) in held)
    ]
