"""Choose the suffix that a protocol puts behind every question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SuffixProtocols:
    """A task whose option `protocol` names a suffix of its questions, which the option `words` replaces.

    Attributes:
        suffixes: per protocol its suffix.
        protocol: the chosen protocol.
        words: another suffix; empty for the protocol's own.
    """

    suffixes: ClassVar[Mapping[str, str]]
    protocol: str
    words: str

    @property
    def prompt(self) -> str:
        """Suffix of every question."""
        return self.words or self.suffixes[self.protocol]
