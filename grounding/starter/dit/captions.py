"""Captions for training: long ones that describe every object and its place, and short ones that name one object.

Reading gives the model a short referring expression as its prompt; both kinds in training make such a prompt familiar,
and the long ones teach what every word looks like.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grounding.scenes.drawing import SceneObject
from grounding.scenes.language import ATTRIBUTES, name, referring_expressions

LONG_VARIANTS, SHORT_VARIANTS = 4, 8
_PARTIAL = 2  # of the short captions describe one or two objects with an indefinite article instead
_KEPT_ATTRIBUTE, _PLACED = 0.8, 0.6  # probabilities
_OPENINGS = ("", "", "a picture with ", "there is ")
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


def long_captions(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[str]:
    """Describe every object in random order, most with attributes and place; `LONG_VARIANTS` captions."""
    return [_listed([objects[i] for i in rng.permutation(len(objects))], rng) for _ in range(LONG_VARIANTS)]


def short_captions(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[tuple[str, int]]:
    """Draw `SHORT_VARIANTS` captions, each with the index of the object that it names first.

    They are referring expressions, and descriptions of one or two objects.
    """
    found = [(expression.text, expression.target_index) for expression in referring_expressions(objects, rng)]
    partial = SHORT_VARIANTS if not found else _PARTIAL
    captions = []
    for _ in range(partial):
        order = rng.permutation(len(objects))[: rng.integers(1, 3)]
        captions.append((_listed([objects[i] for i in order], rng, placed=0.0), int(order[0])))
    return captions + [found[rng.integers(len(found))] for _ in range(SHORT_VARIANTS - partial)]


def place(thing: SceneObject) -> str:
    """Say in which ninth of the picture the object is, "at the top left", "on the right", "in the middle"."""
    column, row = (min(int(v * 3), 2) for v in thing.centre)
    if column == row == 1:
        return "in the middle"
    if row == 1:
        return f"on the {_COLUMNS[column]}"
    return f"at the {_ROWS[row]} {_COLUMNS[column]}".rstrip()


def _listed(objects: Sequence[SceneObject], rng: np.random.Generator, placed: float = _PLACED) -> str:
    phrases = []
    for thing in objects:
        kept = [
            attribute
            for attribute in ATTRIBUTES
            if rng.random() < _KEPT_ATTRIBUTE and getattr(thing.kind, attribute) != "plain"
        ]
        noun = name(thing.kind, kept)
        phrase = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        phrases.append(f"{phrase} {place(thing)}" if rng.random() < placed else phrase)
    text = phrases[-1] if len(phrases) == 1 else f"{' , '.join(phrases[:-1])} and {phrases[-1]}"
    closing = " ." if rng.random() < 0.5 else ""
    return f"{_OPENINGS[rng.integers(len(_OPENINGS))]}{text}{closing}"
