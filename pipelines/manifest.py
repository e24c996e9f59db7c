"""What a run is to work on: images and expressions from the command line, or from a manifest.

A manifest is a file of JSON lines, each an object with `image` (a path, relative to the manifest) and `expression`.
Other fields are carried along into the results, so that answers can be joined to their truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grounding.errors import ManifestError
from pipelines.provenance import short_hash

REQUIRED = ("image", "expression")


@dataclass(frozen=True)
class Item:
    """One picture and one expression.

    Attributes:
        image: the picture's path as it was written; part of the key, so it should stay the same between runs.
        path: where the file is.
        expression: the words.
        extra: the manifest line's other fields.
    """

    image: str
    path: Path
    expression: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def key(self, config: str) -> str:
        """16 hexadecimal digits that name this item under a configuration's hash."""
        return short_hash([self.image, self.expression, config], 16)


def items_from_words(words: Sequence[str]) -> tuple[Item, ...]:
    """The items of `IMAGE... EXPRESSION`.

    Args:
        words: paths, then one expression; a path that stands there twice is taken once.

    Raises:
        ManifestError: there are fewer than two words.
    """
    if len(words) < 2:
        raise ManifestError(
            f"{len(words)} arguments were given, expected images and then one expression (photo.jpg 'the red mug'), or "
            "--manifest FILE"
        )
    *images, expression = words
    return tuple(Item(image, Path(image).expanduser(), expression) for image in dict.fromkeys(images))


def read_manifest(file: Path) -> tuple[Item, ...]:
    """The items of a manifest; one that stands there twice is taken once.

    Args:
        file: JSON lines.

    Raises:
        ManifestError: the file cannot be read, is empty, or a line is not an object with the fields it needs; the
            message names the line. An image that is missing is no fault of the manifest and is found out later.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ManifestError(
            f"the manifest {file} cannot be read ({error.strerror}): give a file of JSON lines with image and "
            "expression"
        ) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"the manifest {file} is not UTF-8 text: save it as UTF-8") from error
    items: dict[tuple[str, str], Item] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            item = _item(line, f"line {number} of the manifest {file}", file.parent)
            items.setdefault((item.image, item.expression), item)
    if not items:
        raise ManifestError(f"the manifest {file} is empty: expected one JSON object a line with image and expression")
    return tuple(items.values())


def _item(line: str, where: str, folder: Path) -> Item:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{where} is not JSON ({error.msg}): expected an object with image and expression"
        ) from error
    if not isinstance(fields, dict):
        raise ManifestError(f"{where} is {type(fields).__name__}, expected an object with image and expression")
    for name in REQUIRED:
        if not isinstance(fields.get(name), str):
            raise ManifestError(f"{where} has {name} = {fields.get(name)!r}, expected text")
    extra = {name: value for name, value in fields.items() if name not in REQUIRED}
    return Item(fields["image"], folder / Path(fields["image"]).expanduser(), fields["expression"], extra)
