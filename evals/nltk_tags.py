"""NLTK's tokenizer, part-of-speech tagger and WordNet lemmatizer, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from grounding.errors import EvalDataError, MissingExtraError

NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")


@dataclass(frozen=True)
class NltkTools:
    """What the published scripts of CHAIR and AMBER take from NLTK.

    Attributes:
        tagged: from a text to its (word, Penn Treebank tag) pairs.
        lemma: from a word and its WordNet part of speech (`n`, `v`, `a`, `r`) to its lemma.
    """

    tagged: Callable[[str], list[tuple[str, str]]]
    lemma: Callable[[str, str], str]


@cache
def load_nltk(purpose: str) -> NltkTools:
    """Load NLTK.

    Args:
        purpose: what needs it, for the message.

    Raises:
        MissingExtraError: NLTK is not installed.
        EvalDataError: NLTK is installed without its data.
    """
    try:
        import nltk
        from nltk.stem import WordNetLemmatizer
    except ImportError as missing:
        raise MissingExtraError("nltk", "eval", purpose) from missing
    lemmatizer = WordNetLemmatizer()

    def tagged(text: str) -> list[tuple[str, str]]:
        return nltk.pos_tag(nltk.word_tokenize(text))

    def lemma(word: str, kind: str) -> str:
        return lemmatizer.lemmatize(word, pos=kind)

    try:
        tagged("Two dogs are here.")
        lemma("dogs", "n")
    except LookupError as missing:
        raise EvalDataError(
            f"NLTK is installed without its data: python -m nltk.downloader {' '.join(NLTK_DATA)}, or use "
            "--pipeline rules"
        ) from missing
    return NltkTools(tagged, lemma)
