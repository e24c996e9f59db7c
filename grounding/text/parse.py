"""Which word of a referring expression names the thing: the head of its first noun phrase.

Two finders with one interface. `RuleNounFinder` needs no download: it ends the phrase at the first preposition,
relative pronoun, verb or punctuation and takes the last noun-like word before it; the rules are this project's own,
written for the short English of referring expressions. `SpacyNounFinder` (extra `nlp`) asks a dependency parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from grounding.errors import ExpressionError, MissingExtraError
from grounding.text.words import normal, split_words
from grounding.types import Word, WordKind

# Spatial words that are prepositions wherever they stand behind a noun; the others ("left", "top") need "of" or "to".
PREPOSITIONS = frozenset(
    "above below over under beneath underneath between among behind beside besides near inside outside opposite"
    " alongside amid".split()
)
# Adjectives that often stand bare in referring expressions; behind a noun they open a new phrase ("man red shirt").
ADJECTIVES = frozenset(
    "red orange yellow green blue purple violet pink brown black white grey gray golden silver beige tan navy lime cyan"
    " magenta turquoise maroon teal dark light bright pale big small large little tiny huge tall short long old young"
    " thin fat thick striped dotted checked checkered plain spotted wooden".split()
)
COMMANDS = frozenset("find show locate segment select highlight pick choose click mark detect".split())
DETERMINERS = frozenset("the a an me all every each this that these those my your".split())  # after a command's verb
NUMERALS = frozenset("two three four five six seven eight nine ten eleven twelve".split())
VERBS = frozenset(
    "holds wears sits stands looks faces walks runs lies carries rides eats plays touches hangs features shows depicts"
    " displays contains includes captures appears seems consists adds creates suggests indicates gives makes"
    " takes".split()
)
OPENERS = frozenset(
    "a an the this that these those some any each every another other several few many more most no all both my your"
    " his her its our their of in on at to from by with without for about into onto off up down along across through"
    " against around via towards toward like as upon within".split()
).union(PREPOSITIONS)
NOUNS_IN_ING = frozenset(
    "thing building ceiling king ring wing string spring painting railing awning clothing evening wedding parking swing"
    " sling pudding icing frosting dressing earring sibling duckling drawing crossing lighting rigging stocking".split()
)
NOUNS_IN_ED = frozenset("bed shed sled seed weed reed breed moped bobsled biped quadruped waterbed".split())


Phrase = tuple[int, int]
"""A noun with what stands before it: (index of the first word, index of the noun)."""


class NounFinder(Protocol):
    """Finds the head noun of a referring expression, and every noun of a longer text."""

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """Indices into `words` of the word or words that name the thing; empty where there is none."""
        ...

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """Every noun phrase of a text in order, disjoint."""
        ...


class RuleNounFinder:
    """Head noun by rules on the project's word list; no model, no download."""

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """The last noun-like word of the first phrase that has one, else the first phrase's last spatial word."""
        start, fallback = 0, None
        while start < len(words):
            end, following = self._phrase(text, words, start)
            nouns = [i for i in range(start, end) if words[i].kind is WordKind.CONTENT]
            best = [i for i in nouns if not _is_modifier(words[i])] or nouns
            if best and not _is_command(words, best[-1]):
                return (best[-1],)
            spatial = [i for i in range(start, end) if words[i].kind is WordKind.SPATIAL]
            if fallback is None and spatial:
                fallback = spatial[-1]
            start = following
        return () if fallback is None else (fallback,)

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """The last noun-like word of every phrase that is opened as English opens noun phrases.

        That is by a determiner, a number or a preposition, at the start of the text, by being a plural, or joined by a
        comma, "and" or "or" to one that is; so "lively" in "the scene is lively" names no thing. Verbs and adjectives
        are told by the lists and endings of this file, which long free text outgrows: a parser knows more.
        """
        found: list[Phrase] = []
        start, joined = 0, False  # whether the phrase before this one was a noun phrase
        while start < len(words):
            end, following = self._phrase(text, words, start)
            content = [i for i in range(start, end) if words[i].kind is WordKind.CONTENT]
            nouns = [i for i in content if not (_is_modifier(words[i]) or _is_verb_of_text(words, i))]
            if nouns:
                first, noun = content[0], nouns[-1]
                opener = normal(words[first - 1].text) if first else ""
                listed = joined and (
                    opener in ("and", "or") or _is_cut(text[words[first - 1].span[1] : words[first].span[0]])
                )
                numbered = any(_is_number(words[i]) for i in content)
                joined = first == 0 or opener in OPENERS or listed or numbered or _is_plural(normal(words[noun].text))
                if joined:
                    found.append((first, noun))
            elif content:
                joined = False
            start = following
        return tuple(found)

    @staticmethod
    def _phrase(text: str, words: Sequence[Word], start: int) -> tuple[int, int]:
        """(end of the phrase that starts at `start`, start of the next)."""
        opened = False  # a word that can carry the phrase has been seen
        noun = False  # and it was more than an adjective
        for index in range(start, len(words)):
            word, form = words[index], normal(words[index].text)
            after = words[index + 1] if index + 1 < len(words) else None
            if index > start and opened and _is_cut(text[words[index - 1].span[1] : word.span[0]]):
                return index, index
            if word.kind is WordKind.STOP:
                joins_adjectives = form in ("and", "or") and opened and not noun
                if opened and not joins_adjectives:
                    return index, index + 1
            elif word.kind is WordKind.SPATIAL:
                leads_on = form in PREPOSITIONS or (after is not None and normal(after.text) in ("of", "to"))
                if opened and leads_on:
                    return index, index + 1
                opened = opened or form not in PREPOSITIONS
            else:
                if noun and (_is_verb(form, after) or form in ADJECTIVES):
                    return index, index
                opened = True
                noun = noun or not _is_modifier(word)
        return len(words), len(words)


class SpacyNounFinder:
    """Head noun by spaCy's dependency parser (extra `nlp`).

    Args:
        pipeline: a loaded spaCy pipeline with a parser, or the name of an installed one.

    Raises:
        MissingExtraError: spaCy is not installed.
        ExpressionError: the named pipeline is not installed.
    """

    def __init__(self, pipeline: Any = "en_core_web_sm") -> None:
        if isinstance(pipeline, str):
            try:
                import spacy
            except ImportError as error:
                raise MissingExtraError("spacy", "nlp", "finding nouns with a dependency parser") from error
            try:
                pipeline = spacy.load(pipeline)
            except OSError as error:
                raise ExpressionError(
                    f"the spaCy pipeline {pipeline!r} is not installed: run 'python -m spacy download {pipeline}', "
                    "or leave the noun finder at 'rules'"
                ) from error
        self.pipeline = pipeline

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """The words that overlap the root of the first noun chunk; of the sentence's root where there is no chunk."""
        document = self.pipeline(text)
        if len(document) == 0:
            return ()
        chunks = [
            chunk for chunk in document.noun_chunks if chunk.root.pos_ != "PRON" or normal(chunk.root.text) == "one"
        ]
        root = chunks[0].root if chunks else next((t for t in document if t.head is t), document[0])
        return _overlapping(words, root.idx, root.idx + len(root))

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """The noun chunks whose root is a noun, from their first content word to the root."""
        found: list[Phrase] = []
        for chunk in self.pipeline(text).noun_chunks:
            if chunk.root.pos_ not in ("NOUN", "PROPN"):
                continue
            root = _overlapping(words, chunk.root.idx, chunk.root.idx + len(chunk.root))
            inside = _overlapping(words, chunk.start_char, chunk.end_char)
            first = next((i for i in inside if words[i].kind is WordKind.CONTENT), None)
            if root and (not found or root[-1] > found[-1][1]):
                found.append((root[-1] if first is None else min(first, root[-1]), root[-1]))
        return tuple(found)


def noun_finder(name: str = "rules") -> NounFinder:
    """A finder by name: `rules`, or `spacy` with `en_core_web_sm`, or `spacy:PIPELINE`.

    Raises:
        ExpressionError: another name.
        MissingExtraError: spaCy is asked for and not installed.
    """
    kind, _, pipeline = name.partition(":")
    if kind == "rules" and not pipeline:
        return RuleNounFinder()
    if kind == "spacy":
        return SpacyNounFinder(pipeline or "en_core_web_sm")
    raise ExpressionError(f"noun finder {name!r} is not known: choose rules, spacy or spacy:PIPELINE")


def parse(expression: str, finder: NounFinder | None = None) -> tuple[Word, ...]:
    """Words of a referring expression with their kinds and the head noun marked.

    Args:
        expression: what the user wrote.
        finder: who finds the head noun; the rules where None.

    Returns:
        The words in order with spans into `expression`, without token positions.

    Raises:
        ExpressionError: there is no word, or none that says what to look for.
    """
    words = split_words(expression)
    if not words:
        raise ExpressionError(
            f"the expression {expression!r} has no words: say what to look for, for example 'the red cup'"
        )
    if all(word.kind is WordKind.STOP for word in words):
        raise ExpressionError(
            f"the expression {expression!r} is made of stop words alone, which point at nothing: name a thing, for "
            "example 'the red cup'"
        )
    head = set((finder or RuleNounFinder()).head(expression, words))
    return tuple(replace(word, is_head=True) if i in head else word for i, word in enumerate(words))


def _is_cut(between: str) -> bool:
    return any(letter in ",;:.!?()[]\u2014\u2013/\n" for letter in between)


def _is_possessive(form: str) -> bool:
    return form.endswith(("'s", "s'"))


def _is_modifier(word: Word) -> bool:
    form = normal(word.text)
    return form in ADJECTIVES or form in NUMERALS or form[:1].isdigit() or _is_possessive(form)


def _is_verb(form: str, after: Word | None) -> bool:
    if form in VERBS or (form.endswith("ing") and form not in NOUNS_IN_ING and len(form) > 4):
        return True
    ends_phrase = after is None or after.kind is not WordKind.CONTENT
    return form.endswith("ed") and form not in NOUNS_IN_ED and len(form) > 3 and ends_phrase


def _is_verb_of_text(words: Sequence[Word], index: int) -> bool:
    after = words[index + 1] if index + 1 < len(words) else None
    form = normal(words[index].text)
    return _is_verb(form, after) or (form.endswith("ly") and len(form) > 4)


def _is_number(word: Word) -> bool:
    form = normal(word.text)
    return form in NUMERALS or form[:1].isdigit()


def _is_plural(form: str) -> bool:
    return len(form) > 3 and form.endswith("s") and not form.endswith(("ss", "us", "is"))


def _overlapping(words: Sequence[Word], start: int, end: int) -> tuple[int, ...]:
    """Indices of the words that share a character with text[start:end]."""
    return tuple(i for i, word in enumerate(words) if word.span[0] < end and start < word.span[1])


def _is_command(words: Sequence[Word], index: int) -> bool:
    if index != 0 or len(words) < 2 or normal(words[0].text) not in COMMANDS:
        return False
    after = normal(words[1].text)
    return after in DETERMINERS or after in ADJECTIVES
