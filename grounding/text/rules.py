"""Nouns by rules: the head noun of a referring expression and the noun phrases of a text, without a model.

A phrase ends at the first preposition, relative pronoun, verb or punctuation mark; its noun is the last noun-like word
before that.
"""

from __future__ import annotations

from collections.abc import Sequence

from grounding.text.words import Phrase, normal
from grounding.types import Word, WordKind

# Spatial words that are prepositions after a noun; the others ("left", "top") need "of" or "to" after them.
PREPOSITIONS = frozenset(
    "above below over under beneath underneath between among behind beside besides near inside outside opposite"
    " alongside amid".split()
)
# Adjectives common in referring expressions; after a noun they start a new phrase ("man red shirt").
ADJECTIVES = frozenset(
    "red orange yellow green blue purple violet pink brown black white grey gray golden silver beige tan navy lime cyan"
    " magenta turquoise maroon teal dark light bright pale big small large little tiny huge tall short long old young"
    " thin fat thick striped dotted checked checkered plain spotted wooden".split()
)
IMPERATIVES = frozenset("find show locate segment select highlight pick choose click mark detect".split())
DETERMINERS = frozenset("the a an me all every each this that these those my your".split())  # after an imperative verb
NUMERALS = frozenset("two three four five six seven eight nine ten eleven twelve".split())
VERBS = frozenset(
    "holds wears sits stands looks faces walks runs lies carries rides eats plays touches hangs features shows depicts"
    " displays contains includes captures appears seems consists adds creates suggests indicates gives makes"
    " takes".split()
)
# Words that can start a noun phrase of free text.
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


class RuleNounFinder:
    """Find nouns by rules and word lists, without a model.

    Notes:
        The rules are our own, written for the short English of referring expressions. Free text outgrows the lists of
        verbs and adjectives; a parser (`SpacyNounFinder`) is more reliable there.
    """

    def head(self, text: str, words: Sequence[Word]) -> tuple[int, ...]:
        """Find the last noun-like word of the first phrase that has one, else its last spatial word.

        Args:
            text: the referring expression.
            words: its words.

        Returns:
            At most one index into `words`.
        """
        start, fallback = 0, None
        while start < len(words):
            end, following = self._phrase(text, words, start)
            nouns = [i for i in range(start, end) if words[i].kind is WordKind.CONTENT]
            best = [i for i in nouns if not _is_modifier(words[i])] or nouns
            if best and not _is_imperative(words, best[-1]):
                return (best[-1],)
            spatial = [i for i in range(start, end) if words[i].kind is WordKind.SPATIAL]
            if fallback is None and spatial:
                fallback = spatial[-1]
            start = following
        return () if fallback is None else (fallback,)

    def phrases(self, text: str, words: Sequence[Word]) -> tuple[Phrase, ...]:
        """Find the last noun-like word of every noun phrase.

        A phrase counts if it starts the text, follows a determiner, preposition or other opener, contains a number,
        ends in a plural, or is joined by a comma, "and" or "or" to a phrase that counts. So "lively" in "the scene is
        lively" is not a noun.

        Args:
            text: text of any length.
            words: its words.

        Returns:
            The phrases in order, disjoint.
        """
        found: list[Phrase] = []
        start, joined = 0, False  # joined: the previous phrase was a noun phrase
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
        """Return the end of the phrase that starts at word `start`, and the start of the next phrase."""
        opened = False  # a word that can belong to a noun phrase has been seen
        noun = False  # a word that can be the noun has been seen
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


def _is_imperative(words: Sequence[Word], index: int) -> bool:
    if index != 0 or len(words) < 2 or normal(words[0].text) not in IMPERATIVES:
        return False
    after = normal(words[1].text)
    return after in DETERMINERS or after in ADJECTIVES
