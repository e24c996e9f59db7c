"""Noun phrases of a longer text, such as a generated caption; a map can be made for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from grounding.text.kinds import normal
from grounding.text.parse import NounFinder
from grounding.text.rules import RuleNounFinder
from grounding.text.words import split_words
from grounding.types import Word

# Nouns of captions without a place in the image: the image itself, its mood, quantities, and words of the dialogue.
PLACELESS = frozenset(
    "image picture photo photograph photography snapshot shot view scene scenery setting atmosphere mood ambiance"
    " environment area time day moment way type kind sort number variety group pair couple lot bunch part rest addition"
    " total example result overall yes no question answer object objects thing things one ones".split()
)


@dataclass(frozen=True)
class NounPhrase:
    """A noun with the adjectives and nouns before it.

    Attributes:
        text: the phrase as written, without its article.
        span: (start, end) characters in the source text.
        words: its words with spans into the source text; exactly one, the noun, is the head.
    """

    text: str
    span: tuple[int, int]
    words: tuple[Word, ...]

    @property
    def noun(self) -> Word:
        """The head noun."""
        return next(word for word in self.words if word.is_head)


def noun_phrases(text: str, finder: NounFinder | None = None) -> tuple[NounPhrase, ...]:
    """Find the noun phrases of a text whose noun can have a place in an image.

    Args:
        text: text of any length.
        finder: finder of noun phrases; the rules if None.

    Returns:
        The phrases in order, disjoint; empty if there are none.
    """
    words = split_words(text)
    found = []
    for first, noun in (finder or RuleNounFinder()).phrases(text, words):
        if normal(words[noun].text) in PLACELESS:
            continue
        inside = tuple(replace(word, is_head=first + i == noun) for i, word in enumerate(words[first : noun + 1]))
        span = (inside[0].span[0], inside[-1].span[1])
        found.append(NounPhrase(text[slice(*span)], span, inside))
    return tuple(found)
