"""Referring expressions to words with kinds and a head noun, and the choice of a noun finder.

The head noun is the word of the expression that names the thing: the head of its first noun phrase. Two finders
implement one protocol: rules, which need no download, and spaCy's parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from grounding.errors import ExpressionError, UsageError
from grounding.text.rules import RuleNounFinder
from grounding.text.spacy_nouns import DEFAULT_MODEL, SpacyNounFinder, load_spacy
from grounding.text.vocabulary import refuse_broken_text
from grounding.text.words import Phrase, split_words
from grounding.types import Word, WordKind


class NounFinder(Protocol):
    """Finder of the head noun of a referring expression and of the nouns of a longer text."""

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """Find the head noun.

        Args:
            text: the referring expression.
            words: its words, with spans into it.

        Returns:
            Indices into `words`; empty if there is no head noun.
        """
        ...

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """Find the noun phrases.

        Args:
            text: text of any length.
            words: its words, with spans into it.

        Returns:
            The phrases in order, disjoint.
        """
        ...


def noun_finder(name: str = "rules") -> NounFinder:
    """Create a noun finder by name.

    Args:
        name: `rules`; `spacy` (the pipeline `en_core_web_sm`); or `spacy:MODEL`, an installed pipeline or a folder.

    Raises:
        UsageError: another name.
        MissingExtraError: spaCy or its pipeline is not installed.
    """
    kind, _, model = name.partition(":")
    if name == "rules":
        return RuleNounFinder()
    if kind == "spacy":
        return SpacyNounFinder(load_spacy(model or DEFAULT_MODEL))
    raise UsageError(f"noun finder {name!r} is not known: choose rules, spacy or spacy:MODEL")


def parse(expression: str, finder: NounFinder | None = None) -> tuple[Word, ...]:
    """Split a referring expression into words, with kinds and the head noun marked.

    Args:
        expression: referring expression, such as "the cup left of the kettle".
        finder: finder of the head noun; the rules if None.

    Returns:
        The words in order with spans into `expression`, without token positions.

    Raises:
        ExpressionError: the expression has no words, or stop words alone.
    """
    refuse_broken_text(expression)
    words = split_words(expression)
    if not words:
        raise ExpressionError(
            f"the expression {expression!r} has no words: say what to look for, for example 'the red cup'"
        )
    if all(word.kind is WordKind.STOP for word in words):
        raise ExpressionError(
            f"the expression {expression!r} is made of stop words alone: name a thing, for example 'the red cup'"
        )
    head = set((finder or RuleNounFinder()).head(expression, words))
    return tuple(replace(word, is_head=True) if i in head else word for i, word in enumerate(words))
