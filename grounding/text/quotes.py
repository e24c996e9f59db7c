"""What a shell or a text editor makes of the quotes around an expression."""

from __future__ import annotations

import re

from grounding.text.kinds import normal
from grounding.text.words import split_words

TYPED = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u201a\u2039\u203a"
"""Quotation marks that a shell takes for letters."""
_DOUBLE, _SINGLE = "\u201c\u201d\u201e\u201f\u00ab\u00bb", "\u2018\u2019\u201a\u201b\u2039\u203a\u02bc"
_STRAIGHT = str.maketrans(_DOUBLE + _SINGLE, '"' * len(_DOUBLE) + "'" * len(_SINGLE))
# A text in quotes that none of its own ends; an apostrophe between two letters ends none.
_QUOTED = re.compile(r"""\s*(?:"(?P<double>[^"]*[^"\s][^"]*)"|'(?P<single>(?:[^']|(?<=\w)'(?=\w))*[^'\s])')\s*""")
_ARTICLES = frozenset(("the", "a", "an"))


def plain_quotes(text: str) -> str:
    """Straighten quotation marks and apostrophes, and take off those around the whole text.

    They do not say what to look for, but are tokens of their own to a model, which would change its maps.
    """
    plain = text.translate(_STRAIGHT)
    while (inside := _QUOTED.fullmatch(plain)) is not None:
        plain = inside["double"] or inside["single"]
    return plain


def enumerated(expression: str) -> tuple[str, ...]:
    """Split an enumeration of several things ("the bowl, the table and the cup") into its expressions.

    Every part must begin with an article and name something else than "one", so "man, red shirt" and "the dog, the one
    on the left" stay whole.

    Returns:
        Two or more expressions, or the expression alone.
    """
    parts = [part.strip() for part in re.split(r"[,;]\s*(?:and\s+|or\s+)?", expression) if part.strip()]
    last = re.split(r"\s+and\s+(?=(?:the|an?)\s)", parts[-1]) if len(parts) > 1 else []
    parts = [*parts[:-1], *last]
    words = [split_words(part) for part in parts]
    listed = len(parts) > 1 and all(
        len(one) > 1 and normal(one[0].text) in _ARTICLES and normal(one[1].text) not in ("one", "ones")
        for one in words
    )
    return tuple(parts) if listed else (expression,)
