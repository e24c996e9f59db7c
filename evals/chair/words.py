"""Reduce a caption to base words: with NLTK, as the published scripts do, or by a few rules without a package.

`nltk`: `word_tokenize` of the lower-cased caption, part-of-speech tags, and the WordNet lemma of each word by its tag,
an unknown tag counting as a noun; as in OPERA's script and its descendants. The first release put every word into the
singular with `pattern.en` instead, which no longer installs on current Python.

`rules`: words with their hyphens and apostrophes, and punctuation marks, by a regular expression, then a plural rule.
Verbs are left unchanged, so "seated" is not a seat, as it is for `nltk`; and "the man's hat" mentions no man, where
`nltk` splits the ending off. The two differ by a few tenths of a point, so report the pipeline with every number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from evals.nltk_tags import load_nltk
from grounding.errors import UsageError

Normaliser = Callable[[str], tuple[str, ...]]
Pipeline = Literal["rules", "nltk"]
PIPELINES: tuple[Pipeline, ...] = ("rules", "nltk")

_TOKEN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*|[^\w\s]")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "calves": "calf",
    "wives": "wife",
    "wolves": "wolf",
    "loaves": "loaf",
    "leaves": "leaf",
    "shelves": "shelf",
    "buses": "bus",
    "tvs": "tv",
    "skis": "ski",
    "scissors": "scissors",
    "policemen": "policeman",
    "servicemen": "serviceman",
}
_ES = ("ches", "shes", "sses", "xes", "zes", "oes")


def normaliser(pipeline: Pipeline) -> Normaliser:
    """Return the function from a caption to its base words and punctuation marks, in order.

    Raises:
        UsageError: the pipeline is unknown.
        MissingExtraError: NLTK is not installed.
        EvalDataError: NLTK is installed without its data.
    """
    if pipeline == "rules":
        return by_rules
    if pipeline == "nltk":
        return _nltk()
    raise UsageError(f"pipeline {pipeline!r} is not known: the known ones are {', '.join(PIPELINES)}")


def by_rules(caption: str) -> tuple[str, ...]:
    """Reduce a caption to base words by the rules."""
    return tuple(singular(token) for token in tokens(caption))


def tokens(caption: str) -> tuple[str, ...]:
    """Split a caption into lower-cased words, with their hyphens and apostrophes, and punctuation marks."""
    return tuple(_TOKEN.findall(caption.lower().replace("\u2019", "'")))


def token_spans(caption: str) -> tuple[tuple[str, int, int], ...]:
    """Split a caption into the same tokens with their (start, end) characters."""
    found = _TOKEN.finditer(caption.replace("\u2019", "'"))
    return tuple((one.group().lower(), one.start(), one.end()) for one in found)


def singular(word: str) -> str:
    """Put a noun into the singular; words of up to three letters or ending in ss, us or is are unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(_ES) else word[:-1]


def _nltk() -> Normaliser:
    nltk = load_nltk("the text pipeline 'nltk'")
    kinds = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def base(caption: str) -> tuple[str, ...]:
        return tuple(nltk.lemma(word, kinds.get(tag[:1], "n")) for word, tag in nltk.tagged(caption.lower()))

    return base
