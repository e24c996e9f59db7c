"""The items of a run: images and expressions from the command line, or from a manifest.

A manifest is a file of JSON lines, each an object with `image` (a path, relative to the manifest) and `expression`.
Other fields are copied to the results, so that results can be joined with their ground truth.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from grounding.errors import ManifestError, UsageError
from grounding.files import user_path
from grounding.manifest import read_manifest
from grounding.pictures import is_file, looks_like_a_picture, picture_files
from grounding.runs.content import picture_hash
from grounding.runs.provenance import short_hash
from grounding.text.quotes import TYPED, enumerated, plain_quotes

REQUIRED = ("image", "expression")


@dataclass(frozen=True)
class ManifestItem:
    """One image and one expression.

    Attributes:
        image: the image's path as it was written; part of the key, so it should stay the same between runs.
        path: where the file is.
        expression: the words.
        extra: the manifest line's other fields.
        repeat: how many lines before it in the manifest say the same in every field.
        source: the manifest's path; None for an item of the command line.
    """

    image: str
    path: Path
    expression: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0
    source: Path | None = None

    @cached_property
    def image_hash(self) -> str | None:
        """Hash of the image's bytes when it was first asked for; None where they cannot be read."""
        return picture_hash(self.path)

    @property
    def origin(self) -> str:
        """8 hexadecimal digits for where the item is from: the manifest's place, or the image's without one.

        Of the lines of one origin, image and expression, those that the origin no longer says are out of date.
        """
        return short_hash(os.path.abspath(self.source or self.path), 8)

    def work(self, config: str) -> str:
        """16 hexadecimal digits that name what is computed, under a configuration's hash; items may share it."""
        return work_key(self.image, self.image_hash, self.expression, config)

    def key(self, config: str) -> str:
        """16 hexadecimal digits that name this item's line in the results: its work and the manifest's fields."""
        line = [*([dict(self.extra)] if self.extra else []), *([self.repeat] if self.repeat else [])]
        return short_hash([self.work(config), *line], 16) if line else self.work(config)


def work_key(image: str, image_hash: str | None, expression: str, config: str) -> str:
    """Name a piece of work: the image's name and content, the words and the configuration; 16 hexadecimal digits."""
    return short_hash([image, image_hash, expression, config], 16)


def items_from_words(words: Sequence[str]) -> tuple[ManifestItem, ...]:
    """Make the items of `IMAGE... EXPRESSION`.

    Args:
        words: pictures, then one expression. A picture is a path, a pattern or a folder; see
            `grounding.pictures.picture_files`. An enumeration of things ("the bowl, the table") is several expressions;
            see `grounding.text.quotes.enumerated`.

    Returns:
        One item for each picture and expression.

    Raises:
        UsageError: there are fewer than two words, or they are no pictures followed by an expression.
    """
    if len(words) < 2:
        raise UsageError(
            f"{len(words)} arguments were given, expected images and then one expression (photo.jpg 'the red mug'), or "
            "--manifest FILE"
        )
    *images, expression = words
    _refuse_scattered(images, expression)
    return tuple(
        ManifestItem(image, user_path(image), one) for image in picture_files(images) for one in enumerated(expression)
    )


def _refuse_scattered(images: Sequence[str], expression: str) -> None:
    """Refuse an expression that a shell took apart, one that stands before its pictures, and none at all.

    Raises:
        UsageError: naming the words.
    """
    odd = next((at for at, word in enumerate(images) if not looks_like_a_picture(word)), None)
    if odd is None and is_file(expression):
        raise UsageError(f"the last word, {expression!r}, is a picture: put the expression behind the pictures")
    if odd is None:
        return
    if is_file(expression):
        raise UsageError(f"{images[odd]!r} stands before the picture {expression!r}: give pictures first, then words")
    said = " ".join((*images[odd:], expression))
    quotes = "typed quotes are letters to a shell; " if any(mark in said for mark in TYPED) else ""
    plain = plain_quotes(said).strip('"')
    raise UsageError(
        f"{images[odd]!r} is no picture; {quotes}if {plain!r} is the expression, put it in quotes: "
        f'grounding segment {" ".join(images[:odd]) or "photo.jpg"} "{plain}"'
    )


def items_from_images(words: Sequence[str]) -> tuple[ManifestItem, ...]:
    """Make the items of `IMAGE...`, without expressions; see `grounding.pictures.picture_files`.

    Raises:
        UsageError: there is none.
    """
    if not words:
        raise UsageError("no image was given, expected one or more (photo.jpg), or --manifest FILE")
    return tuple(ManifestItem(image, user_path(image), "") for image in picture_files(words))


def items_from_manifest(file: Path, required: Sequence[str] = REQUIRED) -> tuple[ManifestItem, ...]:
    """Read the items of a manifest, one a line.

    Args:
        file: JSON lines.
        required: the fields that a line must have; without `expression` the items are images alone.

    Raises:
        ManifestError: the file cannot be read or is empty, or a line is not an object with the required fields; the
            message names the line. A missing image is not looked for here.
    """
    seen: Counter[str] = Counter()
    items = []
    for where, value in read_manifest(file, " and ".join(required)):
        item = _item(value, where, file, required)
        line = short_hash([item.image, item.expression, dict(item.extra)], 16)
        items.append(replace(item, repeat=seen[line]))
        seen[line] += 1
    return tuple(items)


def _item(fields: Any, where: str, manifest: Path, required: Sequence[str]) -> ManifestItem:
    if not isinstance(fields, dict):
        raise ManifestError(f"{where} is {type(fields).__name__}, expected an object with {' and '.join(required)}")
    for name in required:
        if not isinstance(fields.get(name), str):
            raise ManifestError(f"{where} has {name} = {fields.get(name)!r}, expected text")
    extra = {name: value for name, value in fields.items() if name not in required}
    path = manifest.parent / user_path(fields["image"])
    words = fields["expression"] if "expression" in required else ""
    return ManifestItem(fields["image"], path, words, extra, source=manifest)
