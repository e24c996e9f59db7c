"""NLTK's tokenizer, part-of-speech tagger and WordNet lemmatizer, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from evals.nltk_data import data_folder
from grounding.errors import EvalDataError, GroundingError, MissingExtraError

_LEMMAS = 1 << 16  # words of captions repeat, and a lemma takes longer than a look-up


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
    """Load NLTK with the data in its own folders, or in `data_folder`.

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
    if str(data_folder()) not in nltk.data.path:
        nltk.data.path.append(str(data_folder()))
    lemmatizer = WordNetLemmatizer()

    def tagged(text: str) -> list[tuple[str, str]]:
        return nltk.pos_tag(nltk.word_tokenize(text))

    @lru_cache(maxsize=_LEMMAS)
    def lemma(word: str, kind: str) -> str:
        return lemmatizer.lemmatize(word, pos=kind)

    try:
        tagged("Two dogs are here.")
        lemma("dogs", "n")
    except LookupError as missing:
        raise EvalDataError(
            "NLTK is installed without its data: run 'grounding eval nltk-data', or use --pipeline rules"
        ) from missing
    return NltkTools(tagged, lemma)


@contextmanager
def reading_from(folder: Path) -> Iterator[None]:
    """Let NLTK find its data in one folder alone; what is loaded inside is let go afterwards.

    Raises:
        MissingExtraError: NLTK is not installed.
    """
    try:
        import nltk
    except ImportError as missing:
        raise MissingExtraError("nltk", "eval", "its data") from missing
    before = list(nltk.data.path)
    load_nltk.cache_clear()
    nltk.data.path[:] = [str(folder)]
    try:
        yield
    finally:
        nltk.data.path[:] = before
        load_nltk.cache_clear()


def why_not_nltk() -> str | None:
    """Why NLTK cannot be used, in one sentence; None where package and data are there."""
    try:
        load_nltk("the published text pipeline")
    except GroundingError as missing:
        return str(missing)
    return None
