"""Find the sides of the picture that an expression names: "the cup on the left", not "the cup left of the kettle"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from grounding.text.kinds import normal
from grounding.text.rules import PREPOSITIONS
from grounding.types import Word

Side = Literal["left", "right", "top", "bottom", "middle"]

_SIDES: dict[str, Side] = {
    "left": "left", "leftmost": "left",
    "right": "right", "rightmost": "right",
    "top": "top", "topmost": "top", "upper": "top", "uppermost": "top",
    "bottom": "bottom", "bottommost": "bottom", "lower": "bottom", "lowermost": "bottom",
    "middle": "middle", "center": "middle", "centre": "middle",
}  # fmt: skip
_PARTS = frozenset("side corner edge end part half hand most".split())
_ARTICLES = frozenset("the a an this".split())
_PICTURE = frozenset("image picture photo photograph frame scene screen shot".split())


def sides(words: Sequence[Word]) -> tuple[Side, ...]:
    """The sides that the expression names before its first relation, each once.

    "left of the kettle" and "above the kettle" relate to another thing, and words behind them describe that thing, so
    they are not read; "left of the picture" is a side. What is counted "from the left" is not on the left.

    Args:
        words: the words of the expression in order, stop words included.

    Notes:
        The rules are our own.
    """
    forms = [normal(word.text) for word in words]
    found: list[Side] = []
    for index, form in enumerate(forms):
        if form in PREPOSITIONS:
            break
        if form not in _SIDES:
            continue
        at = index + 1
        while at < len(forms) and (forms[at] in _PARTS or forms[at] in _SIDES):
            at += 1
        if at < len(forms) and forms[at] in ("of", "to") and not _of_the_picture(forms[at + 1 :]):
            break
        before = [form for form in forms[:index] if form not in _ARTICLES]
        if not (before and before[-1] == "from") and _SIDES[form] not in found:
            found.append(_SIDES[form])
    return tuple(found)


def _of_the_picture(forms: Sequence[str]) -> bool:
    named = next((form for form in forms if form not in _ARTICLES), "")
    return named in _PICTURE
