"""The kind of each word: content, stop or spatial, from the project's word list and from the words around it.

Some stop words are nouns elsewhere ("the can", "trash can", "the letter t"). Which they are is decided by their
neighbours:

- after an article or a possessive a word is a noun, since a verb or pronoun cannot stand there; a particle is one of
  its adjectives if a noun follows ("the down jacket", but "the out of focus man");
- "can" and "mine" are nouns after an adjective or the singular of a thing ("trash can"), or after a word such as
  "this", unless the next word shows a verb phrase: "the can is full", but "a mountain can be seen", "people can sit";
- a single letter is also a noun after "letter", and two that a slash or "&" joins belong together ("b/w", "b&w"); else
  "w" and, behind a slash, "o" are short for "with" and "without";
- "someone", "those" and other pronouns stand for the thing itself where an expression begins with them and a
  preposition or a participle follows: "someone in red", "those wearing hats".

Notes:
    The rules are our own. Before a verb that is not in the list ("the man can jump") only a tagger knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from grounding.types import WordKind

Span = tuple[int, int]

# A noun follows these, whatever the word list says of it.
_ARTICLES = frozenset("the a an my your his her its our their every".split())
# A noun or a verb follows these: "this can", "this can be seen".
_PRONOUNS = frozenset("this that these those some any each another which all".split())
# After a word that may be an auxiliary these continue a verb phrase: "can be", "can you".
_VERB_PHRASE = frozenset(
    "be been have do not i you he she it we they also only just even still then now never ever always almost barely"
    " clearly easily hardly often see seen sit stand hold reach play fly walk run eat ride carry wear look watch hear"
    " help make get go come take find use".split()
)
_LETTER = frozenset(("letter", "letters"))
_COMPOUND = frozenset(("can", "mine"))
# Those who act: "can" behind them is a verb.
_ACTORS = frozenset(
    "one person people man men woman women child children boy girl guy lady kid animal dog cat horse sheep".split()
)
_LETTER_JOINS = ("/", "&")
# Pronouns that stand for a person or thing before the words in `_BEHIND_SUBJECT` and participles.
_SUBJECTS = frozenset(
    "someone somebody something anyone anybody anything those these he she him her they them who".split()
)
_BEHIND_SUBJECT = frozenset("in on at with without w by from near behind under above beside between to of".split())
_PARTICLES = frozenset("up down off out in".split())


@cache
def word_list() -> dict[str, frozenset[str]]:
    """Read the project's word list.

    Returns:
        Words in lower case by section: `stop`, `spatial`, and `noun`, the stop words that can be nouns.
    """
    text = (files("grounding.text") / "stopwords.txt").read_text(encoding="utf-8")
    sections: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in text.splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[] "), set())
        elif not line.startswith("#"):
            current.update(line.split())
    return {name: frozenset(words) for name, words in sections.items()}


def normal(word: str) -> str:
    """Normalise a word for look-up: lower case, straight apostrophe, plain hyphen."""
    return re.sub("[\u2010\u2011]", "-", word.replace("\u2019", "'")).casefold()


def kind_of(word: str) -> WordKind:
    """Classify a word that stands alone."""
    sections = word_list()
    form = normal(word)
    if form in sections["stop"]:
        return WordKind.STOP
    return WordKind.SPATIAL if form in sections["spatial"] else WordKind.CONTENT


def kinds_in(text: str, spans: Sequence[Span]) -> tuple[WordKind, ...]:
    """Classify the words of a text.

    Args:
        text: the text.
        spans: (start, end) of its words, in order.

    Returns:
        One kind per word.
    """
    words = [text[start:end] for start, end in spans]
    found: list[WordKind] = []
    for index, word in enumerate(words):
        kind = kind_of(word)
        if _is_without(text, spans, index):
            kind = WordKind.STOP
        elif kind is WordKind.STOP and (
            _is_joined_letter(text, words, spans, index)
            or _is_subject(words, index)
            or _is_noun(text, words, spans, found)
        ):
            kind = WordKind.CONTENT
        found.append(kind)
    return tuple(found)


def _is_without(text: str, spans: Sequence[Span], index: int) -> bool:
    """Whether a word is half of "w/o"."""
    start, end = spans[index]
    return text[start : end + 2].casefold() == "w/o" or text[max(start - 2, 0) : end].casefold() == "w/o"


def _is_joined_letter(text: str, words: Sequence[str], spans: Sequence[Span], index: int) -> bool:
    """Whether a single letter is joined to another: "b/w", "b&w"."""
    pairs = [(at, at + 1) for at in (index - 1, index) if 0 <= at < len(words) - 1]
    return any(
        len(words[one]) == len(words[other]) == 1 and text[spans[one][1] : spans[other][0]] in _LETTER_JOINS
        for one, other in pairs
    )


def _is_subject(words: Sequence[str], index: int) -> bool:
    """Whether a pronoun at the start of an expression stands for the thing itself."""
    if index > 0 or len(words) < 2 or normal(words[0]) not in _SUBJECTS:
        return False
    follows = normal(words[1])
    return follows in _BEHIND_SUBJECT or (follows.endswith("ing") and len(follows) > 4)


def _is_noun(text: str, words: Sequence[str], spans: Sequence[Span], before: Sequence[WordKind]) -> bool:
    """Whether the next stop word is a noun here; `before` are the kinds of the words in front of it."""
    index = len(before)
    form = normal(words[index])
    if words[index] == "US" and not text.isupper():
        return True
    if form not in word_list()["noun"]:
        return False
    if index == 0:  # "can of beans", not "can you see it"
        follows = normal(words[1]) if len(words) > 1 else ""
        return form == "can" and follows not in _ARTICLES | _PRONOUNS and _ends_here(text, words, spans, index)
    if text[spans[index - 1][1] : spans[index][0]].strip():
        return False
    last = normal(words[index - 1])
    if last in _ARTICLES:
        return form not in _PARTICLES or (index + 1 < len(words) and kind_of(words[index + 1]) is WordKind.CONTENT)
    if last in _LETTER and len(form) == 1:
        return True
    if form not in _COMPOUND or not (last in _PRONOUNS or before[-1] is not WordKind.STOP):
        return False
    plural = last.endswith("s") and not last.endswith("ss") and last not in _PRONOUNS
    if last in _ACTORS or plural:
        return False
    relative = last in _PRONOUNS and index > 1 and before[-2] is not WordKind.STOP  # "the man that can"
    return not relative and _ends_here(text, words, spans, index)


def _ends_here(text: str, words: Sequence[str], spans: Sequence[Span], index: int) -> bool:
    """Whether a noun phrase can end, or go on to its noun, behind a word that may be an auxiliary."""
    if index + 1 == len(words) or text[spans[index][1] : spans[index + 1][0]].strip():
        return True
    return normal(words[index + 1]) not in _VERB_PHRASE
