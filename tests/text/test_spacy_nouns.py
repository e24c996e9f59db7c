from __future__ import annotations

import sys
from typing import Any

import pytest

from grounding.errors import MissingExtraError, UsageError
from grounding.text.nouns import noun_phrases
from grounding.text.parse import noun_finder, parse
from grounding.text.spacy_nouns import SpacyNounFinder, load_spacy

pytestmark = pytest.mark.extra  # also those that skip without spaCy

NOUNS = ("man", "shirt", "dog", "cup", "coffee", "table", "bus")
TAGS = {
    "the": "DET",
    "a": "DET",
    "it": "PRON",
    "red": "ADJ",
    "big": "ADJ",
    "leftmost": "ADJ",
    "in": "ADP",
    "of": "ADP",
    "on": "ADP",
}


def build_pipeline() -> Any:
    """A pipeline of spaCy's own components and one that attaches words by rule: no trained model."""
    spacy = pytest.importorskip("spacy")
    from spacy.language import Language
    from spacy.tokens import Doc

    def attach(document: Doc) -> Doc:
        """Determiners and adjectives to the next noun, prepositions to the last noun, nouns to the preposition."""
        nouns = [token for token in document if token.pos_ in ("NOUN", "PRON")]
        for token in document:
            after = next((noun for noun in nouns if noun.i > token.i), None)
            before = next((other for other in reversed(document[: token.i]) if other.pos_ in ("ADP", "VERB")), None)
            if token.pos_ in ("DET", "ADJ") and after is not None:
                token.head, token.dep_ = after, "det" if token.pos_ == "DET" else "amod"
            elif token.pos_ == "ADP" and token.i:
                token.head, token.dep_ = next(n for n in reversed(nouns) if n.i < token.i), "prep"
            elif token.pos_ in ("NOUN", "PRON") and before is not None:
                token.head, token.dep_ = before, "pobj" if before.pos_ == "ADP" else "dobj"
            elif token.pos_ == "PRON" and len(document) > token.i + 1:
                token.head, token.dep_ = document[token.i + 1], "nsubj"
            else:
                token.dep_ = "ROOT"
        return document

    if not Language.has_factory("attach_by_rule"):
        Language.component("attach_by_rule", func=attach)
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for noun in NOUNS:
        ruler.add([[{"LOWER": noun}]], {"POS": "NOUN"})
    for word, tag in TAGS.items():
        ruler.add([[{"LOWER": word}]], {"POS": tag})
    ruler.add([[{"LOWER": "shows"}]], {"POS": "VERB"})
    pipeline.add_pipe("attach_by_rule")
    return pipeline


@pytest.fixture(scope="module")
def finder() -> SpacyNounFinder:
    return SpacyNounFinder(build_pipeline())


@pytest.mark.parametrize(
    ("expression", "head"),
    [
        ("man in red shirt", "man"),
        ("the big cup of coffee on the table", "cup"),
        ("red dog", "dog"),
        ("bus", "bus"),
    ],
)
def test_the_root_of_the_first_noun_chunk_is_the_head(finder: SpacyNounFinder, expression: str, head: str) -> None:
    assert [word.text for word in parse(expression, finder) if word.is_head] == [head]


def test_without_a_noun_the_root_of_the_sentence_is_the_head(finder: SpacyNounFinder) -> None:
    assert [word.text for word in parse("leftmost", finder) if word.is_head] == ["leftmost"]


def test_phrases_begin_at_a_content_word_and_end_at_the_noun(finder: SpacyNounFinder) -> None:
    text = "It shows a big dog on the red table of a man"
    found = noun_phrases(text, finder)
    assert [one.text for one in found] == ["big dog", "red table", "man"]
    assert [one.noun.text for one in found] == ["dog", "table", "man"]
    assert [text[slice(*one.span)] for one in found] == [one.text for one in found]


def test_no_text_has_no_nouns(finder: SpacyNounFinder) -> None:
    assert noun_phrases("", finder) == ()


def test_a_pipeline_without_a_parser_is_refused() -> None:
    spacy = pytest.importorskip("spacy")
    with pytest.raises(UsageError, match="lacks a dependency parser"):
        parse("red dog", SpacyNounFinder(spacy.blank("en")))


def test_a_saved_pipeline_is_loaded_by_its_folder(tmp_path) -> None:
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "mine")
    found = noun_finder(f"spacy:{tmp_path / 'mine'}")
    assert isinstance(found, SpacyNounFinder)
    assert found.pipeline.lang == "en"


def test_missing_spacy_names_the_extra_and_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingExtraError, match=r"vlm-grounding\[nlp\].*python -m spacy download en_core_web_sm"):
        noun_finder("spacy")


def test_a_missing_pipeline_says_how_to_download_it() -> None:
    pytest.importorskip("spacy")
    with pytest.raises(MissingExtraError, match="python -m spacy download no_such_pipeline"):
        load_spacy("no_such_pipeline")
