"""Put English nouns into the singular, by rules and short lists of exceptions."""

from __future__ import annotations

from functools import lru_cache

_KNOWN = 1 << 16  # words whose singular is kept: captions repeat them
_IRREGULAR = dict(
    pair.split(":")
    for pair in (
        "men:man women:woman children:child mice:mouse geese:goose oxen:ox feet:foot teeth:tooth knives:knife "
        "calves:calf wives:wife wolves:wolf loaves:loaf leaves:leaf halves:half scarves:scarf hooves:hoof "
        "thieves:thief tvs:tv skis:ski scissors:scissors lens:lens series:series species:species cactuses:cactus "
        "octopuses:octopus walruses:walrus quizzes:quiz"
    ).split()
)
# Singulars that end in -ie, -oe, -i and -u, whose plurals look like those of -y, -o, and of no plural at all.
_IE = frozenset(
    "bowtie brownie collie cookie genie hoodie magpie movie necktie pixie prairie rookie selfie smoothie "
    "sweetie veggie walkie talkie zombie".split()
)
_OE = frozenset("canoe doe foe hoe horseshoe oboe shoe snowshoe tiptoe toe".split())
_VOWEL = frozenset(
    "bikini broccoli corgi emu gnu graffiti khaki kiwi menu panini ravioli safari taxi tsunami zebu zucchini".split()
)
_MEN = frozenset("abdomen acumen omen ramen regimen specimen stamen".split())  # of no man
_ES = ("ches", "shes", "sses", "xes", "zzes", "tzes", "oes")


@lru_cache(maxsize=_KNOWN)
def singular(word: str) -> str:
    """Put a noun into the singular; words of up to three letters or ending in ss, us or is are mostly unchanged."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men") and len(word) > 4 and word not in _MEN:
        return word[:-2] + "an"
    stem = word[:-1]
    if len(word) <= 3 or not word.endswith("s") or stem.endswith("s"):
        return word
    if stem.endswith(("u", "i")):
        return stem if stem in _VOWEL else word
    if stem.endswith("ie"):
        return stem if len(stem) == 3 or stem.rpartition("-")[2] in _IE else word[:-3] + "y"
    if stem.rpartition("-")[2] in _OE:
        return stem
    if word.endswith("buses"):
        return word[:-2]
    if word.endswith("shelves"):
        return word[:-3] + "f"
    return word[:-2] if word.endswith(_ES) else stem
