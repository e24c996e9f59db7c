"""NLTK's tokenizer, part-of-speech tagger and WordNet lemmatizer, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

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


class WeightTable:
    """The weights of NLTK's tagger as one table, which predicts the same tags several times faster.

    A word's features are summed row by row in NLTK's order, so the scores are the same to the last bit.
    """

    def __init__(self, weights: Mapping[str, Mapping[str, float]], classes: Collection[str]) -> None:
        # Of equal scores NLTK takes the last label in the alphabet, and argmax the first column.
        self.classes = classes
        self.weights = weights
        self._labels = sorted(classes, reverse=True)
        column = {label: place for place, label in enumerate(self._labels)}
        self._row = {feature: place for place, feature in enumerate(weights)}
        self._table = np.zeros((len(weights), len(column)))
        for place, by_label in enumerate(weights.values()):
            for label, weight in by_label.items():
                self._table[place, column[label]] = weight

    def predict(self, features: Mapping[str, int], return_conf: bool = False) -> tuple[str, None]:
        """The best label, and no confidence; a feature occurs once or not at all."""
        rows = [self._row[feature] for feature in features if feature in self._row]
        return self._labels[int(self._table.take(rows, axis=0).sum(axis=0).argmax())], None


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
        from nltk.tag import PerceptronTagger
    except ImportError as missing:
        raise MissingExtraError("nltk", "eval", purpose) from missing
    if str(data_folder()) not in nltk.data.path:
        nltk.data.path.append(str(data_folder()))
    lemmatizer = WordNetLemmatizer()

    def tagged(text: str) -> list[tuple[str, str]]:
        return tagger.tag(nltk.word_tokenize(text))

    @lru_cache(maxsize=_LEMMAS)
    def lemma(word: str, kind: str) -> str:
        return lemmatizer.lemmatize(word, pos=kind)

    try:
        tagger = PerceptronTagger()
        tagger.model = WeightTable(tagger.model.weights, tagger.model.classes)
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
