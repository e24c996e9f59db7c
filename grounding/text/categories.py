"""Category lists, and the category that an object's name stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grounding.errors import UsageError
from grounding.files import parse_json
from grounding.text.kinds import normal
from grounding.text.names import ObjectName
from grounding.text.singular import singular
from grounding.types import FloatArray, WordKind

Embed = Callable[[Sequence[str]], FloatArray]
"""From texts to unit vectors [n, d]; see `grounding.text.embedding`."""

TEMPLATE = "a {name}"
"""Text that is embedded for a name; VL-SAM (arXiv 2410.05963) and GenerateU use it."""
SHARPNESS = 100.0
"""Factor on cosines before the softmax over categories, in GenerateU's published code."""
_BRACKET = re.compile(r"[\s_]*\([^)]*\)")
_SHOWN = 5


@dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
        id: its number in the list, or in the ground truth that the list is of.
        name: as written.
        synonyms: other names.
    """

    id: int
    name: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """A category that a name stands for.

    Attributes:
        category: the category.
        weight: factor on the score of what has the name, in (0, 1]; below 1 for a category found by its embedding.
    """

    category: Category
    weight: float = 1.0


@dataclass(frozen=True)
class Vocabulary:
    """A list of categories.

    Attributes:
        categories: at least one, of different ids and names.
    """

    categories: tuple[Category, ...]

    @cached_property
    def by_words(self) -> Mapping[str, Category]:
        """The category of each name and each synonym; a name goes before synonyms, a synonym of two is of neither."""
        names = {_form(one.name): one for one in self.categories}
        others: dict[str, Category | None] = {}
        for one in self.categories:
            for words in {_form(word) for word in (*one.synonyms, _BRACKET.sub("", one.name))}:
                others[words] = None if words in others else one
        return {words: one for words, one in others.items() if one is not None} | names

    def match(self, name: ObjectName) -> Category | None:
        """Find the category by exact words: of the longest end of the phrase that is a name or a synonym.

        "large teddy bear" is a teddy bear, and where no category is called so, a bear.
        """
        words = [normal(word.text) for word in name.phrase.words if word.kind is not WordKind.STOP or word.is_head]
        for first in range(len(words)):
            found = self.by_words.get(_form(" ".join(words[first:])))
            if found is not None:
                return found
        return self.by_words.get(_form(name.name))


@dataclass(frozen=True)
class CategoryFinder:
    """Find the categories of names: by exact words, then by text embeddings, where a model is given.

    Attributes:
        vocabulary: the categories.
        embed: the text embedding model; None for exact words alone.
        top: most categories of one name that are found by embedding.

    Notes:
        VL-SAM maps every name by embedding; taking exact words first is our choice. GenerateU's code keeps the 15
        likeliest categories, each with its score multiplied by its probability.
    """

    vocabulary: Vocabulary
    embed: Embed | None = None
    top: int = 1

    def __call__(self, names: Sequence[ObjectName]) -> list[tuple[Match, ...]]:
        """Find the categories of each name, likeliest first; empty where there is none."""
        exact = [self.vocabulary.match(name) for name in names]
        left = [name.words for name, found in zip(names, exact, strict=True) if found is None]
        embedded = iter(self._nearest(left) if self.embed is not None and left else [()] * len(left))
        return [next(embedded) if found is None else (Match(found),) for found in exact]

    def _nearest(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        assert self.embed is not None
        logits = SHARPNESS * self.embed([TEMPLATE.format(name=text) for text in texts]) @ self._classes.T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        order = np.argsort(-weights, axis=1, kind="stable")[:, : self.top]
        categories = self.vocabulary.categories
        return [
            tuple(Match(categories[at], float(row[at])) for at in best.tolist())
            for row, best in zip(weights, order, strict=True)
        ]

    @cached_property
    def _classes(self) -> FloatArray:
        assert self.embed is not None
        names = [_BRACKET.sub("", one.name).replace("_", " ") for one in self.vocabulary.categories]
        return self.embed([TEMPLATE.format(name=name) for name in names])


def read_vocabulary(file: Path) -> Vocabulary:
    """Read a list of categories.

    Args:
        file: text with one category a line, its synonyms behind it with commas between; or JSON: a list of names, or an
            object with `categories` as in COCO's and LVIS's annotations (`id`, `name`, and perhaps `synonyms`).

    Returns:
        The categories in the file's order; those of a text or a list of names are numbered from 1.

    Raises:
        UsageError: the file cannot be read, has no category or one without a name, or has a name or an id twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as wrong:
        reason = getattr(wrong, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"the category list {file} cannot be read ({reason}): give a file with one name a line"
        ) from wrong
    if text.lstrip()[:1] in ("[", "{"):
        try:
            categories = _from_json(parse_json(text), file)
        except ValueError as wrong:
            raise UsageError(
                f"the category list {file} is not JSON ({wrong}): mend it, or give one name a line"
            ) from wrong
    else:
        lines = [[part.strip() for part in line.split(",") if part.strip()] for line in text.splitlines()]
        named = [parts for parts in lines if parts]
        categories = tuple(Category(number, parts[0], tuple(parts[1:])) for number, parts in enumerate(named, 1))
    return vocabulary_of(categories, str(file))


def vocabulary_of(categories: Sequence[Category], where: str) -> Vocabulary:
    """Make a vocabulary of categories.

    Raises:
        UsageError: there are none, or two have one name or one id.
    """
    if not categories:
        raise UsageError(f"the category list {where} is empty: give at least one name")
    for what, keys in (
        ("name", [_form(one.name) for one in categories]),
        ("id", [str(one.id) for one in categories]),
    ):
        twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
        if twice:
            more = f" and {len(twice) - _SHOWN} more" if len(twice) > _SHOWN else ""
            raise UsageError(
                f"the category list {where} has the {what} {', '.join(map(repr, twice[:_SHOWN]))}{more} twice: keep "
                "one of each, with the other's words as its synonyms"
            )
    return Vocabulary(tuple(categories))


def _from_json(data: Any, file: Path) -> tuple[Category, ...]:
    rows = data.get("categories") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise UsageError(f"{file} is JSON without a list of categories: give a list of names, or COCO's annotations")
    found = []
    for number, row in enumerate(rows, 1):
        fields = {"id": number, "name": row} if isinstance(row, str) else row
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str) or not fields["name"].strip():
            raise UsageError(f"category {number} of {file} has no name: each is text, or an object with id and name")
        own = fields.get("id", number)
        if isinstance(own, bool) or not isinstance(own, int):
            raise UsageError(f"category {fields['name']!r} of {file} has the id {own!r}, expected a whole number")
        synonyms = fields.get("synonyms", ())
        if not isinstance(synonyms, list | tuple) or not all(isinstance(one, str) for one in synonyms):
            raise UsageError(f"category {fields['name']!r} of {file} has synonyms that are no list of words: mend it")
        found.append(Category(own, fields["name"], tuple(synonyms)))
    return tuple(found)


def _form(words: str) -> str:
    """Words for look-up: lower case, blanks for underscores, the last word in the singular."""
    parts = normal(words).replace("_", " ").split()
    return " ".join([*parts[:-1], singular(parts[-1])]) if parts else ""
