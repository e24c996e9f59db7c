"""Read what an expression says about which one of several: sides, larger or smaller, first to last.

"the second cup from the left" counts, "the cup on the left" and "the leftmost cup" name a side, "the larger cup"
compares. As in `grounding.text.sides`, words behind the first relation describe another thing and are not read.

Notes:
    The rules are our own. What is counted without a side is counted from the left, as people read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from grounding.text.kinds import normal
from grounding.text.rules import PREPOSITIONS
from grounding.text.sides import Side, sides
from grounding.types import Word

Size = Literal["large", "small"]
LAST = -1

_SIZES: dict[str, Size] = {
    **dict.fromkeys("bigger biggest larger largest".split(), "large"),
    **dict.fromkeys("smaller smallest tiniest".split(), "small"),
}  # fmt: skip
_ORDINALS = {
    **{
        word: number
        for number, word in enumerate("first second third fourth fifth sixth seventh eighth ninth tenth".split(), 1)
    },
    **{f"{number}{'st nd rd'.split()[number - 1] if number < 4 else 'th'}": number for number in range(1, 11)},
    "last": LAST,
}  # fmt: skip
_COUNTED_FROM = frozenset("left right top bottom".split())
_NOT_COUNTED = frozenset("row floor base half hand level place".split())
_ARTICLES = frozenset("the a an".split())


@dataclass(frozen=True)
class Order:
    """What an expression says about which one of several.

    Attributes:
        sides: the sides that it names.
        size: whether it asks for a larger or smaller one.
        ordinal: the number it counts to, from 1; `LAST` for the last one; None where it does not count.
        counted_from: the side that it counts from; where it counts and names none, `left`, and None for "the second
            largest", which counts from the largest.
    """

    sides: tuple[Side, ...] = ()
    size: Size | None = None
    ordinal: int | None = None
    counted_from: Side | None = None

    def __bool__(self) -> bool:
        return bool(self.sides) or self.size is not None or self.ordinal is not None

    def __str__(self) -> str:
        """The order in words, such as "2nd from the left, larger"."""
        parts = list[str](self.sides)
        if self.ordinal is not None:
            number = "last" if self.ordinal == LAST else f"number {self.ordinal}"
            parts.append(f"{number} from the {self.counted_from}" if self.counted_from else number)
        if self.size is not None:
            parts.append("larger" if self.size == "large" else "smaller")
        return ", ".join(parts)


def order_of(words: Sequence[Word]) -> Order:
    """Read the order that an expression asks for.

    Args:
        words: the words of the expression in order, stop words included.
    """
    forms = [normal(word.text) for word in words]
    end = next((index for index, form in enumerate(forms) if form in PREPOSITIONS), len(forms))
    own = forms[:end]
    size = next((_SIZES[form] for form in own if form in _SIZES), None)
    ordinal = next(
        (
            _ORDINALS[form]
            for index, form in enumerate(own)
            if form in _ORDINALS and not (index + 1 < len(own) and own[index + 1] in _NOT_COUNTED)
        ),
        None,
    )
    if ordinal is None:
        return Order(sides(words), size)
    return Order(sides(words), size, ordinal, _counted_from(own) or (None if size else "left"))


def _counted_from(forms: Sequence[str]) -> Side | None:
    """The side behind "from", with an article between them or not."""
    for index, form in enumerate(forms):
        if form == "from":
            rest = [other for other in forms[index + 1 :] if other not in _ARTICLES]
            if rest and rest[0] in _COUNTED_FROM:
                return cast(Side, rest[0])
    return None
