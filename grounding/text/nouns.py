"""Every noun of a longer text, such as a generated caption, as a phrase that a map can be made for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from grounding.text.parse import NounFinder, RuleNounFinder
from grounding.text.words import normal, split_words
from grounding.types import Word

# Nouns of captions that speak of the picture, of talk about it, or of no thing that has a place in it.
PLACELESS = frozenset(
    "image picture photo photograph photography snapshot shot view scene scenery setting atmosphere mood ambiance"
    " environment area time day moment way type kind sort number variety group pair couple lot bunch part rest addition"
    " total example result overall yes no question answer object objects thing things one ones".split()
)


@dataclass(frozen=True)
class NounPhrase:
    """A noun of a text with the adjectives and nouns before it.

    Attributes:
        text: the phrase as written, without its article.
        span: (start, end) characters in the text it stands in.
        words: its words with spans into that text; exactly one, the noun, is the head.
    """

    text: str
    span: tuple[int, int]
    words: tuple[Word, ...]

    @property
    def noun(self) -> Word:
        """The head."""
        return next(word for word in self.words if word.is_head)


def noun_phrases(text: str, finder: NounFinder | None = None) -> tuple[NounPhrase, ...]:
    """The noun phrases of a text whose noun can have a place in a picture, in order.

    Args:
        text: a caption of any length; it may have no noun at all.
        finder: who finds them; the rules where None.
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
