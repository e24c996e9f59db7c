"""Manifests: JSON-lines files that list what a run works on, one JSON value a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grounding.errors import ManifestError
from grounding.files import parse_jsonl


def read_manifest(file: Path, fields: str) -> Iterator[tuple[str, Any]]:
    """Read a manifest's lines one by one; blank lines are skipped.

    Args:
        file: JSON lines in UTF-8.
        fields: what a line must have, for messages: "image and expression".

    Yields:
        Where a line is ("line 3 of the manifest FILE"), and its JSON value, which is not checked.

    Raises:
        ManifestError: the file cannot be read, is not UTF-8 or has no lines, or a line is not JSON.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as wrong:
        raise ManifestError(
            f"the manifest {file} cannot be read ({wrong.strerror}): give a file of JSON lines with {fields}"
        ) from wrong
    except UnicodeDecodeError as wrong:
        raise ManifestError(f"the manifest {file} is not UTF-8 text: save it as UTF-8") from wrong

    def refuse(number: int, wrong: ValueError) -> ManifestError:
        reason = getattr(wrong, "msg", str(wrong))
        return ManifestError(f"{_where(number, file)} is not JSON ({reason}): expected an object with {fields}")

    empty = True
    for number, value in parse_jsonl(text, refuse):
        empty = False
        yield _where(number, file), value
    if empty:
        raise ManifestError(f"the manifest {file} is empty: expected one JSON object a line with {fields}")


def _where(number: int, file: Path) -> str:
    return f"line {number} of the manifest {file}"
