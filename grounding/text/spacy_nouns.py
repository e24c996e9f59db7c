"""Nouns by spaCy's dependency parser (extra `nlp`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grounding.errors import MissingExtraError, UsageError
from grounding.text.kinds import normal
from grounding.text.words import Phrase
from grounding.types import Word, WordKind

DEFAULT_MODEL = "en_core_web_sm"
_PURPOSE = "finding nouns with spaCy"


def load_spacy(model: str = DEFAULT_MODEL) -> Any:
    """Load a spaCy pipeline.

    Args:
        model: name of an installed pipeline, or a folder.

    Raises:
        MissingExtraError: spaCy or the pipeline is not installed.
    """
    download = f"python -m spacy download {model}"
    try:
        import spacy
    except ImportError as error:
        install = f"pip install 'vlm-grounding[nlp]', then {download}, or choose --nouns rules"
        raise MissingExtraError("spacy", "nlp", _PURPOSE, install) from error
    try:
        return spacy.load(model)
    except OSError as error:
        raise MissingExtraError(model, "nlp", _PURPOSE, f"{download}, or choose --nouns rules") from error


class SpacyNounFinder:
    """Find nouns with a dependency parser; see `grounding.text.parse.NounFinder`.

    Args:
        pipeline: loaded spaCy pipeline with a tagger and a parser.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """Find the root of the first noun chunk, or of the sentence if there is no chunk.

        Args:
            text: the referring expression.
            words: its words.

        Returns:
            Indices of the words that overlap the root token.

        Raises:
            UsageError: the pipeline has no parser.
        """
        document = self._parsed(text)
        if len(document) == 0:
            return ()
        chunks = [
            chunk for chunk in document.noun_chunks if chunk.root.pos_ != "PRON" or normal(chunk.root.text) == "one"
        ]
        root = chunks[0].root if chunks else next((t for t in document if t.head is t), document[0])
        return _overlapping(words, root.idx, root.idx + len(root))

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """Find the noun chunks whose root is a noun, from their first content word to the root.

        Args:
            text: text of any length.
            words: its words.

        Returns:
            The phrases in order, disjoint.

        Raises:
            UsageError: the pipeline has no parser.
        """
        found: list[Phrase] = []
        document = self._parsed(text)
        for chunk in document.noun_chunks if len(document) else ():
            if chunk.root.pos_ not in ("NOUN", "PROPN"):
                continue
            root = _overlapping(words, chunk.root.idx, chunk.root.idx + len(chunk.root))
            inside = _overlapping(words, chunk.start_char, chunk.end_char)
            first = next((i for i in inside if words[i].kind is WordKind.CONTENT), None)
            if root and (not found or root[-1] > found[-1][1]):
                found.append((root[-1] if first is None else min(first, root[-1]), root[-1]))
        return tuple(found)

    def _parsed(self, text: str) -> Any:
        document = self.pipeline(text)
        if len(document) and not (document.has_annotation("DEP") and document.has_annotation("POS")):
            name = self.pipeline.meta.get("name", "spaCy")
            raise UsageError(
                f"the spaCy pipeline {name!r} lacks a dependency parser or a part-of-speech tagger: choose one with "
                f"both, such as {DEFAULT_MODEL}"
            )
        return document


def _overlapping(words: Sequence[Word], start: int, end: int) -> tuple[int, ...]:
    """Return the indices of the words that share a character with text[start:end]."""
    return tuple(i for i, word in enumerate(words) if word.span[0] < end and start < word.span[1])
