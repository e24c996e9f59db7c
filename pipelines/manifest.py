"""The items of a run: images and expressions from the command line, or from a manifest.

A manifest is a file of JSON lines, each an object with `image` (a path, relative to the manifest) and `expression`.
Other fields are copied to the results, so that results can be joined with their ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grounding.errors import ManifestError, UsageError
from grounding.files import user_path
from grounding.manifest import read_manifest
from grounding.runs.provenance import short_hash

REQUIRED = ("image", "expression")


@dataclass(frozen=True)
class ManifestItem:
    """One image and one expression.

    Attributes:
        image: the image's path as it was written; part of the key, so it should stay the same between runs.
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


def items_from_words(words: Sequence[str]) -> tuple[ManifestItem, ...]:
    """Make the items of `IMAGE... EXPRESSION`.

    Args:
        words: paths, then one expression; repeated paths are dropped.

    Raises:
        UsageError: there are fewer than two words.
    """
    if len(words) < 2:
        raise UsageError(
            f"{len(words)} arguments were given, expected images and then one expression (photo.jpg 'the red mug'), or "
            "--manifest FILE"
        )
    *images, expression = words
    return tuple(ManifestItem(image, user_path(image), expression) for image in dict.fromkeys(images))


def items_from_manifest(file: Path) -> tuple[ManifestItem, ...]:
    """Read the items of a manifest; repeated pairs of image and expression are dropped.

    Args:
        file: JSON lines.

    Raises:
        ManifestError: the file cannot be read or is empty, or a line is not an object with the required fields; the
            message names the line. A missing image is not looked for here.
    """
    items: dict[tuple[str, str], ManifestItem] = {}
    for where, value in read_manifest(file, " and ".join(REQUIRED)):
        item = _item(value, where, file.parent)
        items.setdefault((item.image, item.expression), item)
    return tuple(items.values())


def _item(fields: Any, where: str, folder: Path) -> ManifestItem:
    if not isinstance(fields, dict):
        raise ManifestError(f"{where} is {type(fields).__name__}, expected an object with image and expression")
    for name in REQUIRED:
        if not isinstance(fields.get(name), str):
            raise ManifestError(f"{where} has {name} = {fields.get(name)!r}, expected text")
    extra = {name: value for name, value in fields.items() if name not in REQUIRED}
    return ManifestItem(fields["image"], folder / user_path(fields["image"]), fields["expression"], extra)
