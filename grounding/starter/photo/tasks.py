"""Make training questions about photos from captions and the classes present, without boxes and masks.

A question about a phrase ("describe the brown dog .") is answered with the continuation of a caption, so that the model
must attend to the phrase's object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from grounding.photos import Photo, coco_classes
from grounding.starter.photo.words import (
    ABOUT,
    DESCRIBE,
    DETAIL,
    ENUMERATE,
    EXISTS,
    is_thing,
    split,
    with_article,
)
from grounding.text.rules import RuleNounFinder
from grounding.text.words import split_words

_MOST_PHRASES, _PHRASE_WORDS = 4, 8
_EACH_SPLIT = 3  # questions with answer "no" of each of the three kinds


@dataclass(frozen=True)
class Habits:
    """Counts of classes and of pairs of classes in the training photos.

    Attributes:
        classes: C names.
        alone: float64 [C], number of photos with the class.
        together: float64 [C, C], number of photos with both classes; the diagonal is 0.
    """

    classes: tuple[str, ...]
    alone: np.ndarray
    together: np.ndarray


def habits_of(photos: Iterable[Photo], classes: Sequence[str] | None = None) -> Habits:
    """Count classes and pairs of classes over photos."""
    names = tuple(classes or coco_classes())
    index = {name: number for number, name in enumerate(names)}
    present = np.zeros((0, len(names)))
    rows = [[index[name] for name in photo.objects if name in index] for photo in photos]
    present = np.zeros((len(rows), len(names)))
    for row, found in zip(present, rows, strict=True):
        row[found] = 1
    together = present.T @ present
    alone = together.diagonal().copy()
    np.fill_diagonal(together, 0)
    return Habits(names, alone, together)


def absent_classes(photo: Photo, habits: Habits, rng: np.random.Generator, each: int = _EACH_SPLIT) -> list[str]:
    """Draw classes that the photo does not show: at random, by frequency, and by co-occurrence with shown ones.

    These are the three kinds of negatives of POPE (Li et al., 2023, section 4.1).

    Args:
        photo: the photo.
        habits: counts over the training photos.
        rng: random generator.
        each: number of classes of each kind; fewer if the photo shows nearly all.

    Notes:
        POPE takes the most frequent classes; here they are drawn with probabilities proportional to the counts.
    """
    shown = np.isin(habits.classes, photo.objects)
    company = habits.together[shown].sum(axis=0)
    weights = (np.ones(len(shown)), habits.alone, company)
    drawn: list[str] = []
    for weight in weights:
        open_ = ~shown & ~np.isin(habits.classes, drawn)
        chances = np.where(open_, weight + 1e-3, 0.0)
        count = min(each, int(open_.sum()))
        if count:
            drawn += [
                habits.classes[i] for i in rng.choice(len(chances), count, replace=False, p=chances / chances.sum())
            ]
    return drawn


@dataclass(frozen=True)
class Phrase:
    """A noun phrase of a caption, and the caption's text from the phrase on."""

    expression: str
    text: str


def phrases(caption: str) -> list[Phrase]:
    """Return short referring phrases of a caption: each noun with the adjectives before it.

    The noun is the head noun, by rules, of the words between two stop words; the phrase's text is the phrase with up to
    eight following words.
    """
    text = " ".join(split(caption))
    words = split_words(text)
    found: list[Phrase] = []
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and is_thing(words[end].text) and _adjacent(text, words, start, end):
            end += 1
        if end == start:
            start += 1
            continue
        piece = text[words[start].span[0] : words[end - 1].span[1]]
        head = RuleNounFinder().head(piece, split_words(piece))
        if head and not words[start + head[-1]].text.endswith(("ing", "ed")):
            last = start + head[-1]
            expression = text[words[start].span[0] : words[last].span[1]]
            follows = text[words[start].span[0] :].split()[: _PHRASE_WORDS + last - start]
            found.append(Phrase(expression, " ".join(follows).removesuffix(" .")))
        start = end
    return found


def dialogue(photo: Photo, habits: Habits, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw (question, answer) pairs about a photo: two captions, then phrases, presence and a list in random order."""
    order = rng.permutation(len(photo.captions))
    captions = [_tidy(photo.captions[i]) for i in order]
    pairs = [(DESCRIBE, captions[0]), (DETAIL, " ".join(captions[:3]))]
    said = Counter(phrase.expression for caption in captions for phrase in phrases(caption))
    told = [phrase for caption in captions for phrase in phrases(caption)]
    asked: list[tuple[str, str]] = []
    for i in rng.permutation(len(told)):
        phrase = told[i]
        question = ABOUT.format(expression=phrase.expression)
        if said[phrase.expression] and question not in dict(asked) and len(asked) < _MOST_PHRASES:
            asked.append((question, f"{phrase.text} ."))
    absent = absent_classes(photo, habits, rng)
    # As many answers "yes" as "no"; classes repeat if the photo shows few.
    shown = (
        [photo.objects[i % len(photo.objects)] for i in rng.permutation(max(len(absent), len(photo.objects)))]
        if photo.objects
        else []
    )
    asked += [(EXISTS.format(thing=with_indefinite(name)), "no") for name in absent]
    asked += [(EXISTS.format(thing=with_indefinite(name)), "yes") for name in shown[: len(absent)]]
    if photo.objects:
        named = [with_article(photo.objects[i]) for i in rng.permutation(len(photo.objects))]
        asked.append((ENUMERATE, f"{' , '.join(named)} ."))
    return pairs + [asked[i] for i in rng.permutation(len(asked))]


def with_indefinite(name: str) -> str:
    """Return the class with an article as in POPE: "a dog", "an apple", also "a skis"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _tidy(caption: str) -> str:
    return " ".join(split(caption)).removesuffix(".").rstrip() + " ."


def _adjacent(text: str, words: Sequence, start: int, end: int) -> bool:
    return end == start or text[words[end - 1].span[1] : words[end].span[0]] == " "
