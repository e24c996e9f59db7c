"""Nouns of a description and similarity of words: as in AMBER's script, or without its packages.

The script uses NLTK's noun tags and lemmas, and the word vectors of spaCy's `en_core_web_lg`. Without them every word
is looked up in its singular, and only equal words are similar. Since nearly all words of AMBER's lists are nouns, the
counts are close to those of the published variant, but not equal, so results name the variant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Literal

from evals.amber.generative import Similar, same_word
from evals.chair.words import by_rules
from evals.nltk_tags import load_nltk
from grounding.errors import EvalDataError, MissingExtraError

Nouns = Callable[[str], tuple[str, ...]]
NounPipeline = Literal["rules", "nltk"]
Vectors = Literal["none", "en_core_web_lg"]
THRESHOLD = 0.8


def description_nouns(pipeline: NounPipeline) -> Nouns:
    """Return the function from a description to its nouns as base words.

    Raises:
        MissingExtraError: NLTK is not installed.
        EvalDataError: NLTK is installed without its data.
    """
    if pipeline == "rules":
        return by_rules
    nltk = load_nltk("AMBER's own noun finder")

    def nouns(text: str) -> tuple[str, ...]:
        return tuple(nltk.lemma(word, "n") for word, tag in nltk.tagged(text) if tag.startswith("NN"))

    return nouns


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
