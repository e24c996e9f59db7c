"""Manifests: JSON lines that list what a run works on, one JSON value a line, in a file or on stdin."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grounding.errors import ManifestError
from grounding.files import json_fault, parse_jsonl

STDIN = Path("-")
"""The file name that stands for stdin; paths in such a manifest are relative to the working directory."""
_DEEPEST = 64  # fields are copied to results, and writing JSON nests Python calls as deeply as the value is nested


def read_manifest(file: Path, fields: str) -> Iterator[tuple[str, Any]]:
    """Read a manifest's values one by one, one a line as a rule; blank lines are skipped.

    Args:
        file: JSON lines in UTF-8, with or without a byte order mark; `-` is stdin.
        fields: what a line must have, for messages: "image and expression".

    Yields:
        Where a line is ("line 3 of the manifest FILE"), and its JSON value, of which only what no result could hold is
        refused.

    Raises:
        ManifestError: the file cannot be read, is not UTF-8 or has no lines, a line is not JSON, holds a number that is
            not finite, or is nested more than 64 deep.
    """
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as wrong:
        raise ManifestError(
            f"the manifest {file} cannot be read ({wrong.strerror}): give a file of JSON lines with {fields}"
        ) from wrong
    except UnicodeDecodeError as wrong:
        raise ManifestError(f"the manifest {file} is not UTF-8 text: save it as UTF-8") from wrong

    def refuse(number: int, wrong: ValueError) -> ManifestError:
        return ManifestError(f"{_where(number, file)} {json_fault(wrong)}; expected an object with {fields}")

    empty = True
    for number, value in parse_jsonl(text, refuse):
        empty = False
        _refuse_unwritable(value, _where(number, file))
        yield _where(number, file), value
    if empty:
        raise ManifestError(f"the manifest {file} is empty: expected one JSON object a line with {fields}")


def _where(number: int, file: Path) -> str:
    return f"line {number} of the manifest {'on stdin' if file == STDIN else file}"


def _refuse_unwritable(value: Any, where: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ManifestError(f"{where} is nested more than {_DEEPEST} deep: leave out the deep field")
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{where} holds {value}, which is no number of JSON: write null, or leave the field out")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _refuse_unwritable(one, where, depth + 1)
