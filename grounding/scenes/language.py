"""Generate true texts about drawn scenes: captions, questions with answers, and referring expressions.

All texts use the words of `VOCABULARY` only. Positions in answers are cells of a `CELLS` x `CELLS` grid, column first,
counted from 0 at the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES, ObjectKind, Scene, SceneObject

CELLS = 12
ATTRIBUTES = ("size", "pattern", "colour")  # in the order English puts them before the noun
RELATIONS: dict[str, tuple[int, int]] = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
EXTREMES: dict[str, tuple[int, int]] = {
    "leftmost": (0, -1),
    "rightmost": (0, 1),
    "topmost": (1, -1),
    "bottommost": (1, 1),
}
SIDES: dict[str, tuple[int, int]] = {
    "on the left": (0, -1),
    "on the right": (0, 1),
    "at the top": (1, -1),
    "at the bottom": (1, 1),
}
MARGIN = 0.06  # smallest difference along an axis for two objects to be ordered along it

_FUNCTION_WORDS = (
    "user assistant : . , ? a an the is are there in of on at to and what where which how many describe image object it"
).split()
_ANSWER_WORDS = ["yes", "no", *(str(i) for i in range(CELLS))]
_SPATIAL_WORDS = "left right above below top bottom leftmost rightmost topmost bottommost".split()
_ATTRIBUTE_NAMES = ["shape", "color", "size", "pattern"]
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
VOCABULARY: tuple[str, ...] = (
    *_FUNCTION_WORDS,
    *_ANSWER_WORDS,
    *_SPATIAL_WORDS,
    *_ATTRIBUTE_NAMES,
    *SHAPES,
    *PLURALS.values(),
    *COLOURS,
    *SIZES,
    *PATTERNS,
)
LOCATE = "where is {expression} ?"
DESCRIBE = "describe the image ."
ENUMERATE = "what is in the image ?"
PLACE = "what is where in the image ?"

ExpressionKind = Literal["plain", "attribute", "position", "relation"]
QuestionKind = Literal["exists", "attribute", "count", "order"]


@dataclass(frozen=True)
class Expression:
    """A referring expression, true of exactly one object of its scene."""

    text: str
    target_index: int
    kind: ExpressionKind


@dataclass(frozen=True)
class Question:
    """A question and its only correct answer."""

    text: str
    answer: str
    kind: QuestionKind


@dataclass(frozen=True)
class SceneTexts:
    """Sentences about a scene that are true by construction, drawn from the scene's own seed."""

    scene: Scene

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.scene.seed, purpose))  # the pixels are purpose 0

    @cached_property
    def expressions(self) -> tuple[Expression, ...]:
        """Referring expressions, each true of exactly one object; at most one of each kind per object."""
        return referring_expressions(self.scene.objects, self._rng(1))

    @cached_property
    def captions(self) -> tuple[str, str]:
        """A long caption that names every object with its attributes, and a short one that names shapes only."""
        return caption(self.scene.objects, attributes=True), caption(self.scene.objects, attributes=False)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Existence, attribute, count and position questions with their answers."""
        return questions(self.scene.objects, self._rng(2))


def cell_of(thing: SceneObject) -> tuple[int, int]:
    """Return (column, row) of the grid cell that contains the object's centre."""
    x, y = thing.centre
    return min(int(x * CELLS), CELLS - 1), min(int(y * CELLS), CELLS - 1)


def locate_answer(thing: SceneObject) -> str:
    """Return the answer to `LOCATE`: column and row."""
    column, row = cell_of(thing)
    return f"{column} {row}"


def name(kind: ObjectKind, attributes: Sequence[str]) -> str:
    """Return the noun with the chosen attributes before it, "small striped red star"."""
    return " ".join([*(getattr(kind, a) for a in ATTRIBUTES if a in attributes), kind.shape])


def matching(objects: Sequence[SceneObject], kind: ObjectKind, attributes: Sequence[str]) -> list[int]:
    """Return the indices of the objects that `name(kind, attributes)` describes."""
    keys = (*attributes, "shape")
    return [i for i, thing in enumerate(objects) if all(getattr(thing.kind, k) == getattr(kind, k) for k in keys)]


def caption(objects: Sequence[SceneObject], *, attributes: bool) -> str:
    """List every object from left to right, with its attributes (a plain pattern is left out) or by its shape alone."""
    ordered = sorted(objects, key=lambda thing: thing.centre[0])
    return _listed([_described(thing) if attributes else thing.kind.shape for thing in ordered])


def placed_caption(objects: Sequence[SceneObject], rng: np.random.Generator) -> str:
    """List every object with its attributes, column and row, in random order.

    In left-to-right order the next position could be guessed from the last one without using the words.
    """
    shuffled = [objects[i] for i in rng.permutation(len(objects))]
    return _listed([f"{_described(thing)} {locate_answer(thing)}" for thing in shuffled])


def _described(thing: SceneObject) -> str:
    return name(thing.kind, [a for a in ATTRIBUTES if a != "pattern" or thing.kind.pattern != "plain"])


def _listed(nouns: Sequence[str]) -> str:
    phrases = [f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" for noun in nouns]
    if len(phrases) < 2:
        return " ".join([*phrases, "."])
    return f"{' , '.join(phrases[:-1])} and {phrases[-1]} ."


def unique_attributes(objects: Sequence[SceneObject], index: int, rng: np.random.Generator) -> list[str] | None:
    """Add attributes in random order until only this object fits; None if an identical object is in the scene."""
    order = [ATTRIBUTES[i] for i in rng.permutation(len(ATTRIBUTES))]
    for count in range(len(order) + 1):
        if matching(objects, objects[index].kind, order[:count]) == [index]:
            return order[:count]
    return None


def referring_expressions(objects: Sequence[SceneObject], rng: np.random.Generator) -> tuple[Expression, ...]:
    """Draw at most one expression of each kind per object, each true of that object alone."""
    found: list[Expression] = []
    for index in range(len(objects)):
        for text, kind in (
            _by_attributes(objects, index, rng),
            _by_position(objects, index, rng),
            _by_relation(objects, index, rng),
        ):
            if text:
                article = "the " if rng.random() < 0.85 else ""
                found.append(Expression(article + text, index, kind))
    return tuple(found)


def _by_attributes(objects: Sequence[SceneObject], index: int, rng: np.random.Generator) -> tuple[str, ExpressionKind]:
    needed = unique_attributes(objects, index, rng)
    if needed is None:
        return "", "attribute"
    spare = [a for a in ATTRIBUTES if a not in needed and rng.random() < 0.3]
    return name(objects[index].kind, [*needed, *spare]), "attribute" if needed or spare else "plain"


def _by_position(objects: Sequence[SceneObject], index: int, rng: np.random.Generator) -> tuple[str, ExpressionKind]:
    attributes = [a for a in ATTRIBUTES if rng.random() < 0.25]
    candidates = matching(objects, objects[index].kind, attributes)
    noun = name(objects[index].kind, attributes)
    phrases = {f"{word} {noun}": where for word, where in EXTREMES.items()}
    phrases |= {f"{noun} {words}": where for words, where in SIDES.items()}
    others = [i for i in candidates if i != index]
    if not others:
        return "", "position"
    true = [
        phrase
        for phrase, (axis, sign) in phrases.items()
        if all(_ordered(objects[index], objects[other], axis, sign) for other in others)
    ]
    return (true[rng.integers(len(true))] if true else ""), "position"


def _by_relation(objects: Sequence[SceneObject], index: int, rng: np.random.Generator) -> tuple[str, ExpressionKind]:
    attributes = [a for a in ATTRIBUTES if rng.random() < 0.25]
    target = objects[index]
    rivals = [i for i in matching(objects, target.kind, attributes) if i != index]
    true: list[tuple[str, bool]] = []
    for anchor in range(len(objects)):
        described = unique_attributes(objects, anchor, rng) if anchor != index else None
        if described is None:
            continue
        for words, (axis, sign) in RELATIONS.items():
            fits = _ordered(target, objects[anchor], axis, sign)
            alone = all(_ordered(objects[r], objects[anchor], axis, -sign) for r in rivals if r != anchor)
            if fits and alone:
                phrase = f"{name(target.kind, attributes)} {words} the {name(objects[anchor].kind, described)}"
                true.append((phrase, any(r != anchor for r in rivals)))
    needed = [phrase for phrase, is_needed in true if is_needed]
    choices = needed or [phrase for phrase, _ in true]
    return (choices[rng.integers(len(choices))] if choices else ""), "relation"


def _ordered(one: SceneObject, other: SceneObject, axis: int, sign: int) -> bool:
    return sign * (one.centre[axis] - other.centre[axis]) > MARGIN


def questions(objects: Sequence[SceneObject], rng: np.random.Generator) -> tuple[Question, ...]:
    """Draw two existence questions (one yes, one no) and, where possible, one of every other kind."""
    found = [_exists(objects, rng, present=True), _exists(objects, rng, present=False)]
    index = int(rng.integers(len(objects)))
    found += [q for q in (_attribute(objects, index, rng), _order(objects, rng)) if q]
    shape = SHAPES[rng.integers(len(SHAPES))] if rng.random() < 0.5 else objects[index].kind.shape
    number = sum(thing.kind.shape == shape for thing in objects)
    found.append(Question(f"how many {PLURALS[shape]} are there ?", str(number), "count"))
    return tuple(found)


def _exists(objects: Sequence[SceneObject], rng: np.random.Generator, *, present: bool) -> Question:
    attributes = [a for a in ATTRIBUTES if rng.random() < 0.4]
    for _ in range(32):
        kind = objects[int(rng.integers(len(objects)))].kind
        if not present:
            # Hard negatives: half of the absent objects differ from a present one in a single word.
            kind = _changed(kind, attributes, rng) if rng.random() < 0.5 else _random_kind(rng)
        if bool(matching(objects, kind, attributes)) == present:
            break
    noun = name(kind, attributes)
    answer = "yes" if matching(objects, kind, attributes) else "no"
    return Question(f"is there {'an' if noun[0] in 'aeiou' else 'a'} {noun} ?", answer, "exists")


def _random_kind(rng: np.random.Generator) -> ObjectKind:
    pools = (SHAPES, tuple(COLOURS), tuple(SIZES), PATTERNS)
    return ObjectKind(*(pool[rng.integers(len(pool))] for pool in pools))


def _changed(kind: ObjectKind, attributes: Sequence[str], rng: np.random.Generator) -> ObjectKind:
    parts = ("shape", *attributes)
    part, other = parts[rng.integers(len(parts))], _random_kind(rng)
    values = {k: getattr(kind, k) for k in ("shape", "colour", "size", "pattern")}
    return ObjectKind(**(values | {part: getattr(other, part)}))


def _attribute(objects: Sequence[SceneObject], index: int, rng: np.random.Generator) -> Question | None:
    asked = ("shape", *ATTRIBUTES)[rng.integers(4)]
    kind = objects[index].kind
    order = [a for a in (ATTRIBUTES[i] for i in rng.permutation(3)) if a != asked]
    word = "color" if asked == "colour" else asked
    for count in range(len(order) + 1):
        given = order[:count]
        keys = given if asked == "shape" else [*given, "shape"]
        fitting = [t for t in objects if all(getattr(t.kind, k) == getattr(kind, k) for k in keys)]
        if len({getattr(t.kind, asked) for t in fitting}) == 1 and len(fitting) == 1:
            noun = name(kind, given)
            if asked == "shape":
                noun = noun.removesuffix(kind.shape) + "object"
            return Question(f"what {word} is the {noun} ?", getattr(kind, asked), "attribute")
    return None


def _order(objects: Sequence[SceneObject], rng: np.random.Generator) -> Question | None:
    if len(objects) < 2:
        return None
    one, other = (int(i) for i in rng.permutation(len(objects))[:2])
    described = [unique_attributes(objects, i, rng) for i in (one, other)]
    words = tuple(RELATIONS)[rng.integers(len(RELATIONS))]
    axis, sign = RELATIONS[words]
    holds = _ordered(objects[one], objects[other], axis, sign)
    if (
        described[0] is None
        or described[1] is None
        or not (holds or _ordered(objects[one], objects[other], axis, -sign))
    ):
        return None
    first, second = name(objects[one].kind, described[0]), name(objects[other].kind, described[1])
    return Question(f"is the {first} {words} the {second} ?", "yes" if holds else "no", "order")
