"""Choose the words that a protocol puts into a task's questions, and a model's own in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from grounding.models.own_words import OwnWords


@runtime_checkable
class Rewordable(Protocol):
    """A task whose protocol's words can be replaced by those that a model declares as its own."""

    def in_words_of(self, own: OwnWords) -> Self:
        """Return the task in a model's own words, where it declares some and the user gave no others.

        The words become the task's options, so a run's manifest holds them and its task is made again without the
        model.
        """


class SuffixProtocols:
    """A task whose option `protocol` names a suffix of its questions, which the option `words` replaces.

    Attributes:
        suffixes: per protocol its suffix.
        protocol: the chosen protocol.
        words: another suffix; None for the protocol's own.
    """

    suffixes: ClassVar[Mapping[str, str]]
    protocol: str
    words: str | None

    @property
    def prompt(self) -> str:
        """Suffix of every question."""
        return self.suffixes[self.protocol] if self.words is None else self.words

    def in_words_of(self, own: OwnWords) -> Self:
        """Ask for short answers as the model declares; see `Rewordable`."""
        if self.words is not None or own.brief is None or own.brief == self.prompt:
            return self
        return replace(self, words=own.brief)  # type: ignore[type-var]
