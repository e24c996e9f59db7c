"""Nouns by rules: the head noun of a referring expression and the noun phrases of a text, without a model.

A phrase ends at the first preposition, relative pronoun, verb or punctuation mark behind a noun; its noun is the last
noun-like word before that. Marks between adjectives do not end it ("black/white cat").
"""

from __future__ import annotations

from collections.abc import Sequence

from grounding.text.kinds import normal
from grounding.text.words import Phrase
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
    " thin fat thick striped dotted checked checkered plain spotted wooden silver gold blonde blond brunette bald hairy"
    " furry fluffy fuzzy curly shiny dirty rusty empty full half whole entire open closed round circular rectangular"
    " curved straight skinny chubby slim pretty cute older younger bigger smaller larger taller shorter longer thinner"
    " darker lighter brighter main single double visible blurry colorful colourful multicolored wet dry clear fancy"
    " floral metallic transparent upright sideways asleep alone".split()
)
# Adjectives that are nouns at the end of a compound: "traffic light", "street light".
NOUNS_TOO = frozenset(("light",))
SUPERLATIVES_NOT = frozenset(
    "forest chest vest nest guest crest priest harvest quest interest contest request breast protest".split()
)  # nouns in -est
PARTICIPLES = frozenset("bent held worn seen shown hung torn broken eaten bitten hidden seated made".split())
ABBREVIATIONS = frozenset("st mr mrs ms dr no jr sr mt vs".split())  # their point does not end a phrase
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

_ENDS = ";:.!?()[]\u2014\u2013\n"  # marks that end a phrase
_JOINS = ",/&+"  # marks between phrases, or between adjectives of one


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
            named = _named(words, nouns)
            best = [i for i in named if not _is_participle(normal(words[i].text))] or named or nouns
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
            nouns = [i for i in _named(words, content) if not _is_verb_of_text(words, i)]
            if nouns:
                first, noun = content[0], nouns[-1]
                while first < noun and _follows_as_verb(words, first):  # "(a man) wearing black trousers"
                    first = next(i for i in content if i > first)
                opener = normal(words[first - 1].text) if first else ""
                listed = joined and (
                    opener in ("and", "or") or _has_mark(text, words[first - 1], words[first], _ENDS + _JOINS)
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
            marks = _ENDS + _JOINS if noun else _ENDS  # behind adjectives alone a comma or slash leads on to the noun
            if opened and _has_mark(text, words[index - 1], word, marks):
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
                ends = after is None or after.kind is not WordKind.CONTENT or normal(after.text) in VERBS
                if noun and (_is_verb(form, after) or (_is_adjective(form) and not (ends and form in NOUNS_TOO))):
                    return index, index
                opened = True
                noun = noun or not (_is_modifier(word) or (after is not None and _is_participle(form)))
        return len(words), len(words)


def _follows_as_verb(words: Sequence[Word], index: int) -> bool:
    """Whether a word in -ing is the verb of the noun before it, and no adjective of the noun behind it."""
    return index > 0 and _is_in_ing(normal(words[index].text)) and normal(words[index - 1].text) not in OPENERS


def _named(words: Sequence[Word], content: Sequence[int]) -> list[int]:
    """Those of a phrase's content words that are no modifiers."""
    compound = content[-1:] if len(content) > 1 and normal(words[content[-1]].text) in NOUNS_TOO else ()
    return [i for i in content if i in compound or not _is_modifier(words[i])]


def _has_mark(text: str, before: Word, after: Word, marks: str) -> bool:
    """Whether one of the marks stands between two words; the point of an abbreviation is none."""
    short = "." in before.text or normal(before.text) in ABBREVIATIONS
    between = text[before.span[1] : after.span[0]]
    return any(letter in marks and not (letter == "." and short) for letter in between)


def _is_possessive(form: str) -> bool:
    return form.endswith(("'s", "s'"))


def _is_modifier(word: Word) -> bool:
    form = normal(word.text)
    return len(form) == 1 or _is_adjective(form) or form in NUMERALS or form[:1].isdigit() or _is_possessive(form)


def _is_adjective(form: str) -> bool:
    superlative = form.endswith("est") and len(form) > 5 and form not in SUPERLATIVES_NOT
    return form in ADJECTIVES or superlative or (form.endswith(("less", "ful")) and len(form) > 5)


def _is_participle(form: str) -> bool:
    return _is_in_ing(form) or _is_in_ed(form) or form in PARTICIPLES


def _is_in_ing(form: str) -> bool:
    return form.endswith("ing") and form not in NOUNS_IN_ING and len(form) > 4


def _is_in_ed(form: str) -> bool:
    return form.endswith("ed") and form not in NOUNS_IN_ED and len(form) > 3


def _is_verb(form: str, after: Word | None) -> bool:
    if form in VERBS or _is_in_ing(form):
        return True
    ends_phrase = after is None or after.kind is not WordKind.CONTENT
    return (_is_in_ed(form) or form in PARTICIPLES) and ends_phrase


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
