"""Names of objects in a model's answer: head nouns in the singular, each once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from grounding.text.kinds import normal
from grounding.text.nouns import PLACELESS, NounPhrase, noun_phrases
from grounding.text.parse import NounFinder
from grounding.text.singular import singular
from grounding.text.words import split_words
from grounding.types import WordKind

Merge = Literal["names", "phrases", "none"]
"""What makes two mentions one object: the same name, the same name and adjectives, or nothing."""
Stuff = Literal["one", "many", "drop"]
"""What becomes of a stuff noun: all its regions are one instance, each is one as of a thing, or it is left out."""

STUFF = frozenset(
    "sky cloud grass water sea ocean lake river snow ice sand dirt mud soil gravel ground floor ceiling pavement"
    " asphalt road street sidewalk wall fog mist smoke fire foliage vegetation greenery sunlight shade shadow rock hay"
    " straw rice hair".split()
)
"""Nouns of what has an extent but no instances."""

_ITEM_ENDS = re.compile(r"[\n;|\u3001\u3002\uff0c\uff1b]")  # also the enumeration marks of Chinese and Japanese
_BULLET = re.compile(r"\s*(?:[-*\u2022\u00b7\u2013]+|\(?\d{1,3}[.)])\s*")
_ITEM_WORDS = 4  # of an item without a noun phrase that the finder knows, and that is a name nevertheless


@dataclass(frozen=True)
class ObjectName:
    """One thing that an answer names.

    Attributes:
        name: the head noun in lower case and the singular.
        phrase: its first mention, with adjectives; its span is in the answer.
        plural: whether the first mention is in the plural.
        stuff: whether the noun is in `STUFF`.
        mentions: how often the answer names it.
    """

    name: str
    phrase: NounPhrase
    plural: bool
    stuff: bool
    mentions: int = 1

    @property
    def words(self) -> str:
        """The first mention as written, in lower case."""
        return self.phrase.text.lower()


def listed_phrases(text: str, finder: NounFinder | None = None) -> tuple[NounPhrase, ...]:
    """Find the noun phrases of an answer that lists things, as prose or as items of a list.

    Line ends, semicolons and the enumeration marks of Chinese and Japanese end an item; bullets and numbers before one
    are skipped. A short item in which the finder finds no noun, such as one in another language, is a name as a whole.

    Args:
        text: the answer.
        finder: finder of noun phrases; the rules if None.

    Returns:
        The phrases in order, disjoint, with spans into `text`.
    """
    found: list[NounPhrase] = []
    for start, item in _items(text):
        phrases = noun_phrases(item, finder)
        found += [_moved(one, start) for one in (phrases or _whole(item))]
    return tuple(found)


def object_names(
    phrases: Sequence[NounPhrase], merge: Merge = "phrases", stuff: Stuff = "one", limit: int = 0
) -> tuple[ObjectName, ...]:
    """Make the names of an answer's noun phrases, each once, in the order of their first mentions.

    Args:
        phrases: from `listed_phrases`.
        merge: what makes two mentions one object.
        stuff: `drop` leaves stuff nouns out; the other values keep them.
        limit: most names; 0 is all.

    Notes:
        VL-SAM (arXiv 2410.05963) parses tags "following Tag2Text" and gives no rule of its own. Lemmas, the list of
        stuff nouns and the merging of mentions are our choices.
    """
    names: dict[object, ObjectName] = {}
    for number, phrase in enumerate(phrases):
        form = normal(phrase.noun.text)
        name = singular(form)
        if stuff == "drop" and name in STUFF:
            continue
        key = {"names": name, "phrases": _lemmas(phrase), "none": number}[merge]
        known = names.get(key)
        if known is not None:
            names[key] = replace(known, mentions=known.mentions + 1)
        elif not limit or len(names) < limit:
            names[key] = ObjectName(name, phrase, name != form, name in STUFF)
    return tuple(names.values())


def _lemmas(phrase: NounPhrase) -> tuple[str, ...]:
    """The content words of a phrase, in any order but for its noun: "small red star" is "red small star"."""
    content = (normal(word.text) for word in phrase.words if word.kind is not WordKind.STOP and not word.is_head)
    return (*sorted(content), singular(normal(phrase.noun.text)))


def _items(text: str) -> Iterator[tuple[int, str]]:
    """The items of a list with the position of their first character; the text itself where it is none."""
    start = 0
    for end in (*(mark.start() for mark in _ITEM_ENDS.finditer(text)), len(text)):
        item = text[start:end]
        bullet = _BULLET.match(item)
        skipped = bullet.end() if bullet else 0
        if item[skipped:].strip():
            yield start + skipped, item[skipped:]
        start = end + 1


def _whole(item: str) -> tuple[NounPhrase, ...]:
    """A short item as one phrase, whose noun is its last content word."""
    words = split_words(item)
    content = [index for index, word in enumerate(words) if word.kind is WordKind.CONTENT]
    named = [index for index in content if any(letter.isalpha() for letter in words[index].text)]
    if not named or len(words) > _ITEM_WORDS or normal(words[named[-1]].text) in PLACELESS:
        return ()
    inside = words[named[0] : named[-1] + 1]
    marked = tuple(replace(word, is_head=index == len(inside) - 1) for index, word in enumerate(inside))
    span = (inside[0].span[0], inside[-1].span[1])
    return (NounPhrase(item[slice(*span)], span, marked),)


def _moved(phrase: NounPhrase, by: int) -> NounPhrase:
    """The phrase with spans moved by a number of characters."""
    words = tuple(replace(word, span=(word.span[0] + by, word.span[1] + by)) for word in phrase.words)
    return NounPhrase(phrase.text, (phrase.span[0] + by, phrase.span[1] + by), words)
