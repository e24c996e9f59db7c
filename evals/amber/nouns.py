"""Nouns of a description and similarity of words: as in AMBER's script, or without its packages.

The script uses NLTK's noun tags and lemmas, and the word vectors of spaCy's `en_core_web_lg`. Without them every word
is looked up as it is written, in lower case and in its singular, because AMBER's lists hold "TV" and "sunglasses"; and
only equal words are similar. A word that can be a verb is a noun only where its neighbours let it be one: "a mountain
can be seen" names no can. The counts are close to those of the published variant, but not equal, so results name it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, lru_cache
from typing import Any, Literal

from evals.amber.generative import Similar, same_word
from evals.chair.words import Pipeline, cased_tokens
from evals.nltk_tags import load_nltk
from grounding.errors import EvalDataError, MissingExtraError
from grounding.text.singular import singular

Nouns = Callable[[str], tuple[str, ...]]
Vectors = Literal["none", "en_core_web_lg"]
THRESHOLD = 0.8

_DETERMINERS = frozenset("a an the this each every no his her its their our my your two four five six empty".split())
# What a can holds, is made of or is for: before "can" it makes the noun.
_OF_CANS = frozenset(
    "trash garbage rubbish waste recycling soda cola coke beer soup paint spray tin aluminum metal watering gas milk "
    "food empty open red blue green white black silver large small".split()
)
_AFTER_MODALS = frozenset("also be been clearly easily even find have not only see still".split())
# What follows a noun and no modal verb.
_AFTER_NOUNS = frozenset(
    "of and or is are was were has with on in at near next beside by under behind to for that which sits stands".split()
)
_MODALS = frozenset("can could will would may might must should shall to they we you i who".split())
_BEFORE_TO = frozenset("next close due attached similar adjacent opposite".split())
_VERBS = frozenset("bat bear brush camera dress drink drive fish fly light park ride shop shower ski watch".split())
_NO_NOUNS = frozenset(["hot"])  # on AMBER's lists as half of a hot dog


def description_nouns(pipeline: Pipeline, known: Collection[str]) -> Nouns:
    """Return the function from a description to its nouns as base words.

    Args:
        pipeline: `rules` or `nltk`.
        known: AMBER's words, of which the rules choose.

    Raises:
        MissingExtraError: NLTK is not installed.
        EvalDataError: NLTK is installed without its data.
    """
    if pipeline == "rules":
        return lambda text: nouns_by_rules(text, known)
    nltk = load_nltk("AMBER's own noun finder")

    def nouns(text: str) -> tuple[str, ...]:
        return tuple(nltk.lemma(word, "n") for word, tag in nltk.tagged(text) if tag.startswith("NN"))

    return nouns


def nouns_by_rules(text: str, known: Collection[str]) -> tuple[str, ...]:
    """List the known words that a text names, in order, in the form in which they are known."""
    words = cased_tokens(text)
    low = [word.lower() for word in words]
    found = []
    for at, word in enumerate(words):
        forms = (word, low[at], singular(low[at]), word[:-1] if word[:-1].isupper() else word)
        base = next((form for form in forms if form in known), None)
        if base is not None and _can_be_noun(low, at):
            found.append(base)
    return tuple(found)


def _can_be_noun(words: list[str], at: int) -> bool:
    """Whether a lower-cased word's neighbours let it be a noun."""
    word, before = words[at], words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else "."
    if word in _NO_NOUNS:
        return False
    if word == "can":
        named = before in _DETERMINERS | _OF_CANS or after in _AFTER_NOUNS or not after[0].isalnum()
        return named and after not in _AFTER_MODALS
    infinitive = before == "to" and at > 1 and words[at - 2] in _BEFORE_TO
    return word not in _VERBS or before not in _MODALS or infinitive


def similarity(vectors: Vectors) -> Similar:
    """Return the function that says whether two words are similar.

    There is no fallback for `en_core_web_lg`: the threshold of 0.8 belongs to its vectors.

    Raises:
        MissingExtraError: spaCy is not installed.
        EvalDataError: spaCy is installed without the model.
    """
    if vectors == "none":
        return same_word
    try:
        import spacy
    except ImportError as missing:
        raise MissingExtraError("spacy", "nlp", "AMBER's word similarity") from missing
    try:
        model = spacy.load(vectors)
    except OSError as missing:
        raise EvalDataError(
            f"spaCy's model {vectors} is not installed: python -m spacy download {vectors}, or use --vectors none"
        ) from missing

    @cache
    def document(word: str) -> Any:
        return model(word)

    @lru_cache(maxsize=1 << 18)
    def similar(one: str, other: str) -> bool:
        return bool(document(one).similarity(document(other)) > THRESHOLD)

    return similar
