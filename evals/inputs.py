"""Read files to be scored: text, JSON and JSON lines. Pickles are refused, because reading one can run code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grounding.errors import EvalDataError
from grounding.files import parse_json, parse_jsonl, user_path

# The first byte of a pickle of protocol 2 or newer.
_PICKLE = b"\x80"
_PICKLE_ENDINGS = (".pkl", ".pickle", ".p", ".pth", ".pt", ".joblib")
WHOLE_NUMBER = re.compile("[0-9]{1,18}")
"""An id as text; Python's `isdigit` also takes "²", which is no number."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of half of a surrogate pair
_SHOWN = 5  # ids or names listed in a message


def read_text(path: str | Path, what: str) -> str:
    """Read a text file in UTF-8.

    Args:
        path: the file.
        what: what it should hold, for messages: "the captions".

    Raises:
        EvalDataError: the file is missing, a folder, empty, not UTF-8 text, or a pickle.
    """
    file = user_path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise EvalDataError(f"there is no file {file}: give the path of {what}") from None
    except IsADirectoryError:
        raise EvalDataError(f"{file} is a folder, but {what} must be a file") from None
    except OSError as wrong:
        raise EvalDataError(f"{file} cannot be read as {what}: {wrong.strerror}; check the path") from wrong
    if content.startswith(_PICKLE) or file.suffix.lower() in _PICKLE_ENDINGS:
        raise EvalDataError(
            f"{file} is a pickle, which can run code when it is read, so it is refused: give {what} as JSON"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise EvalDataError(f"{file} is no UTF-8 text, but {what} must be: give another file") from wrong
    if not text.strip():
        raise EvalDataError(f"{file} is empty, but {what} must hold something: give another file")
    return text


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        EvalDataError: the file cannot be read (see `read_text`) or is not JSON.
    """
    text = read_text(path, what)
    try:
        return _whole(parse_json(text)) if _HALF.search(text) else parse_json(text)
    except ValueError as wrong:
        raise EvalDataError(f"{path} is not JSON ({wrong}), but {what} must be: give another file") from wrong


def read_rows(path: str | Path, what: str) -> list[Mapping[str, Any]]:
    """Read the objects of a file of JSON lines or of one JSON array.

    Raises:
        EvalDataError: the file cannot be read, a line is not JSON, a row is not an object, or there are no rows.
    """
    text = read_text(path, what)
    if text.lstrip().startswith("["):
        rows = read_json(path, what)
    else:

        def refuse(number: int, wrong: ValueError) -> EvalDataError:
            return EvalDataError(
                f"line {number} of {path} is not JSON, but {what} must be JSON lines or one JSON array: mend it"
            )

        halves = _HALF.search(text)
        rows = [_whole(value) if halves else value for _, value in parse_jsonl(text, refuse)]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise EvalDataError(
                f"row {number} of {path} is a {type(row).__name__}, but every row of {what} must be an object with "
                "named fields: mend it"
            )
    if not rows:
        raise EvalDataError(f"{path} has no rows, but {what} must have at least one: give another file")
    return rows


def field(row: Mapping[str, Any], names: Iterable[str], kind: type, where: str) -> Any:
    """Get a field of a row by the first of its accepted names.

    Args:
        row: the object.
        names: the accepted names of the field, the usual one first.
        kind: the type it must have; bool does not count as int.
        where: "row 3 of FILE", for messages.

    Raises:
        EvalDataError: the row has none of the names, or the value has another type.
    """
    known = list(names)
    name = next((name for name in known if name in row), None)
    if name is None:
        wanted = " or ".join(map(repr, known))
        raise EvalDataError(f"{where} has no {wanted}, only {listed(row)}: add it")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EvalDataError(f"{where}: {name!r} is {value!r:.60}, expected {_KINDS[kind]}: mend it")
    return value


def whole_number(row: Mapping[str, Any], names: Iterable[str], where: str) -> int:
    """Get an id of a row: a whole number, or a string of digits.

    Raises:
        EvalDataError: the id is missing or something else.
    """
    known = list(names)
    value = next((row[name] for name in known if name in row), None)
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    return int(field(row, known, int, where))


def refuse_doubles(ids: Iterable[Any], path: str | Path, what: str) -> None:
    """Refuse ids that occur more than once.

    Raises:
        EvalDataError: an id is repeated; the message names the first such id and its rows.
    """
    rows: dict[Any, list[int]] = {}
    for number, one in enumerate(ids, 1):
        rows.setdefault(one, []).append(number)
    doubled = {one: places for one, places in rows.items() if len(places) > 1}
    if doubled:
        first, places = next(iter(doubled.items()))
        raise EvalDataError(
            f"{path} has {len(doubled)} {what} more than once, the first is {first} in rows "
            f"{' and '.join(map(str, places[:_SHOWN]))}: keep one row of each"
        )


def listed(values: Iterable[Any]) -> str:
    """List the first few values, and how many more there are."""
    every = list(values)
    shown = ", ".join(map(str, every[:_SHOWN]))
    return f"{shown} and {len(every) - _SHOWN} more" if len(every) > _SHOWN else shown or "nothing"


def _whole(value: Any) -> Any:
    """Put U+FFFD, the replacement character, for half of a surrogate pair, which neither models nor files take."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return {_whole(key): _whole(one) for key, one in value.items()} if isinstance(value, dict) else value


_KINDS = {int: "a whole number", str: "text", list: "a list", dict: "an object", float: "a number"}
