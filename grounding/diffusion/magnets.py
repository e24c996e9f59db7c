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
from grounding.joint_spec import MagnetWords
from grounding.text.kinds import kind_of, normal
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
        alone = (self.encode_alone(magnet) for magnet in _used(prompt, magnets))
        return self.join(encoded, [replace(one, tokens=_as_magnets(one.tokens)) for one in alone])[0]

    def join(self, encoded: Encoded, added: Sequence[Encoded]) -> tuple[Encoded, int]:
        """Put states behind a prompt's own and before its padding.

        Args:
            encoded: the prompt.
            added: states that follow it.

        Returns:
            (prompt, added states and padding; index of the first added token).
        """
        # Padding stays last: a transformer that drops it keeps what stands before.
        count = len(encoded.tokens)
        end = count - sum(1 for _ in takewhile(lambda token: token.role == "pad", reversed(encoded.tokens)))
        own, padding = (self._part(encoded, indices) for indices in (range(end), range(end, count)))
        parts = [own, *added, padding]
        joined = {
            name: torch.cat([part.inputs[name] for part in parts], dim=axis)
            for name, axis in self._source.per_token.items()
        }
        return Encoded(tuple(token for part in parts for token in part.tokens), {**encoded.inputs, **joined}), end

    def knows(self, text: str) -> bool:
        """Whether all of a text is in the encoder's vocabulary."""
        return not any(token.unknown for token in self._source.tokens(text))

    def _check_known(self, magnets: MagnetWords) -> None:
        for magnet in magnets.texts:
            if not self.knows(magnet):
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

    def first_token(self, text: str) -> Encoded:
        """The first token that stands for characters of a text that is encoded alone; it counts as text of its own."""
        alone = self.encode_alone(text)
        first = next(i for i, token in enumerate(alone.tokens) if token.role == "text")
        one = self._part(alone, [first])
        return replace(one, tokens=_as_magnets(one.tokens))

    def encode_alone(self, magnet: str) -> Encoded:
        """A text's own tokens and their states, without padding."""
        if magnet not in self._alone:
            source = self._source
            # Padding, where the text encoder sees it, changes the states of the tokens before it.
            alone = source.with_reading(pads="drop") if "drop" in source.pad_rules else source
            encoded = alone.encode(magnet)
            real = [i for i, token in enumerate(encoded.tokens) if token.role != "pad"]
            self._alone[magnet] = self._part(encoded, real)
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


def _as_magnets(tokens: Sequence[TextToken]) -> tuple[TextToken, ...]:
    return tuple(replace(token, role="magnet", span=(0, 0)) for token in tokens)


def _used(prompt: TextPrompt, magnets: MagnetWords) -> Sequence[str]:
    """The magnets without the content words that the prompt holds."""
    held = {normal(word.text) for word in prompt.words}
    return [
        magnet
        for magnet in magnets.texts
        if not (magnets.skip_content and kind_of(magnet) is WordKind.CONTENT and normal(magnet) in held)
    ]
