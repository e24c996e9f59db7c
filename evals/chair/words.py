"""Reduce a caption to base words: with NLTK, as the published scripts do, or by a few rules without a package.

`nltk`: `word_tokenize` of the lower-cased caption, part-of-speech tags, and the WordNet lemma of each word by its tag,
an unknown tag counting as a noun; as in OPERA's script and its descendants, whose printed figures it gives. The first
release put every word into the singular with `pattern.en` instead, which no longer installs on current Python.

`rules`: words with their hyphens, and punctuation marks, by a regular expression, then a plural rule. Possessive
endings are words of their own, as for `nltk`. Verbs are left unchanged, so "seated" is no seat and "skiing" no ski, as
they are for `nltk`; and "men" are persons, whom WordNet's lemma "men" loses. The two differ by up to a point in CHAIR_S
on OPERA's captions, so report the pipeline with every number.

`auto` is `nltk` where the package and its data are there, and `rules` elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Literal

from evals.nltk_tags import load_nltk, why_not_nltk
from grounding.errors import UsageError
from grounding.text.singular import singular

Normaliser = Callable[[str], tuple[str, ...]]
Pipeline = Literal["rules", "nltk"]
PipelineChoice = Literal["auto", "rules", "nltk"]
PIPELINES: tuple[Pipeline, ...] = ("rules", "nltk")

# A word with its hyphens and inner apostrophes but without a possessive ending; the ending; a punctuation mark.
_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+|'(?![sS](?![^\W_]))[^\W_]+)*|'[sS](?![^\W_])|[^\w\s]")


def settle(pipeline: PipelineChoice) -> Pipeline:
    """Settle which pipeline `auto` is on this machine; `rules` for want of the published one is said once on stderr."""
    if pipeline != "auto":
        return pipeline
    missing = why_not_nltk()
    if missing is None:
        return "nltk"
    _warn(missing)
    return "rules"


@cache
def _warn(missing: str) -> None:
    from grounding.console import stderr

    stderr().print(
        f"NOT THE PUBLISHED TEXT PIPELINE: {missing}; words are found by --pipeline rules, whose figures differ from "
        "printed ones by up to a point or more"
    )


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
    """Split a caption into lower-cased words, with their hyphens, possessive endings, and punctuation marks."""
    return tuple(_TOKEN.findall(caption.lower().replace("\u2019", "'")))


def cased_tokens(caption: str) -> tuple[str, ...]:
    """Split a caption into the same tokens with their capitals."""
    return tuple(_TOKEN.findall(caption.replace("\u2019", "'")))


def token_spans(caption: str) -> tuple[tuple[str, int, int], ...]:
    """Split a caption into the same tokens with their (start, end) characters."""
    found = _TOKEN.finditer(caption.replace("\u2019", "'"))
    return tuple((one.group().lower(), one.start(), one.end()) for one in found)


def _nltk() -> Normaliser:
    nltk = load_nltk("the text pipeline 'nltk'")
    kinds = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def base(caption: str) -> tuple[str, ...]:
        return tuple(nltk.lemma(word, kinds.get(tag[:1], "n")) for word, tag in nltk.tagged(caption.lower()))

    return base
