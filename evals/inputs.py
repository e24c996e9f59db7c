"""Read files to be scored: text, JSON and JSON lines. Pickles are refused, because reading one can run code."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from grounding.errors import EvalDataError
from grounding.files import json_fault, parse_json, parse_json_at, user_path

# The first byte of a pickle of protocol 2 or newer.
_PICKLE = b"\x80"
_PICKLE_ENDINGS = (".pkl", ".pickle", ".p", ".pth", ".pt", ".joblib")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of half of a surrogate pair
_SHOWN = 5  # ids or names listed in a message
_DIGITS = 18  # of an id, which must fit into 64 bits
# The digits before a picture's ending, or at the end of a name without one: COCO_val2014_000000000139.jpg.
_IMAGE_NAME = re.compile(r"(?:^|[^0-9])([0-9]{1,18})(?:\.(?:jpe?g|png|webp|bmp|gif|tiff?))?$", re.IGNORECASE)


def read_text(path: str | Path, what: str) -> str:
    """Read a text file in UTF-8.

    Args:
        path: the file.
        what: what it should hold, for messages: "the captions".

    Raises:
        EvalDataError: the file is missing, a folder, empty, not UTF-8 text, or a pickle.
    """
    with _opened(path, what) as stream:
        text = _decoded(stream.read(), path, what)
    if not text.strip():
        raise _nothing(path, what)
    return text


@contextmanager
def _opened(path: str | Path, what: str) -> Iterator[BinaryIO]:
    """Open a file that is no pickle, after its byte order mark, if it has one."""
    file = user_path(path)
    try:
        with file.open("rb") as stream:
            head = stream.peek(len(codecs.BOM_UTF8))
            if head.startswith(_PICKLE) or file.suffix.lower() in _PICKLE_ENDINGS:
                raise EvalDataError(
                    f"{file} is a pickle, which can run code when it is read, so it is refused: give {what} as JSON"
                )
            if head.startswith(codecs.BOM_UTF8):
                stream.seek(len(codecs.BOM_UTF8))
            yield stream
    except FileNotFoundError:
        raise EvalDataError(f"there is no file {file}: give the path of {what}") from None
    except IsADirectoryError:
        raise EvalDataError(f"{file} is a folder, but {what} must be a file") from None
    except OSError as wrong:
        raise EvalDataError(f"{file} cannot be read as {what}: {wrong.strerror}; check the path") from wrong


def _decoded(content: bytes, path: str | Path, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise EvalDataError(f"{path} is no UTF-8 text, but {what} must be: give another file") from wrong


def _parsed(text: str, path: str | Path, what: str) -> Any:
    try:
        return _whole(parse_json(text), text)
    except ValueError as wrong:
        raise EvalDataError(f"{path} {json_fault(wrong)}; {what} must be JSON: give another file") from wrong


def _nothing(path: str | Path, what: str) -> EvalDataError:
    return EvalDataError(f"{path} is empty, but {what} must hold something: give another file")


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        EvalDataError: the file cannot be read (see `read_text`) or is not JSON.
    """
    return _parsed(read_text(path, what), path, what)


def read_rows(path: str | Path, what: str) -> list[Mapping[str, Any]]:
    """Read all objects of a file; see `iter_rows`."""
    return list(iter_rows(path, what))


def iter_rows(path: str | Path, what: str) -> Iterator[Mapping[str, Any]]:
    """Read the objects of a file one by one: JSON lines, objects one after another in any layout, or one JSON array.

    Only a line feed ends a line, because JSON text may hold U+2028 and other Unicode line ends.

    Raises:
        EvalDataError: the file cannot be read, a line is not JSON, a row is not an object, or there are no rows.
    """
    number = 0
    for number, row in enumerate(_values(path, what), 1):
        if not isinstance(row, dict):
            raise EvalDataError(
                f"row {number} of {path} is a {type(row).__name__}, but every row of {what} must be an object with "
                "named fields: mend it"
            )
        yield row
    if not number:
        raise EvalDataError(f"{path} has no rows, but {what} must have at least one: give another file")


def _values(path: str | Path, what: str) -> Iterator[Any]:
    empty = True
    with _opened(path, what) as stream:
        for number, line in enumerate(stream, 1):
            text = _decoded(line, path, what)
            if not text.strip():
                continue
            if empty and text.lstrip().startswith("["):
                yield from _parsed(text + _decoded(stream.read(), path, what), path, what)
                return
            empty = False
            try:
                value = _whole(parse_json(text), text)
            except ValueError:
                yield from _one_after_another(text + _decoded(stream.read(), path, what), number, path, what)
                return
            yield value
    if empty:
        raise _nothing(path, what)


def _one_after_another(text: str, line: int, path: str | Path, what: str) -> Iterator[Any]:
    """Parse values that stand one after another, on one line or spread over several.

    Args:
        text: the values.
        line: number of the text's first line.
        path: the file, for messages.
        what: what it should hold, for messages.
    """
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = parse_json_at(text, at)
        except ValueError as wrong:
            raise EvalDataError(
                f"line {line + text.count(chr(10), 0, at)} of {path} {json_fault(wrong)}; {what} must be JSON lines or "
                "one JSON array: mend it"
            ) from wrong
        yield _whole(value, text)


def _whole(value: Any, source: str) -> Any:
    """Put U+FFFD, the replacement character, for half of a surrogate pair, which neither models nor files take.

    Args:
        value: what was parsed.
        source: from this text; without an escape of such a half in it the value is returned as it is.
    """
    return _replaced(value) if "\\u" in source and _HALF.search(source) else value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_replaced(one) for one in value]
    return {_replaced(key): _replaced(one) for key, one in value.items()} if isinstance(value, dict) else value


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
    number = number_of(value)
    if number is not None:
        return number
    field(row, known, int, where)
    raise EvalDataError(f"{where}: the id {str(value)[:_DIGITS]}... has more than {_DIGITS} digits: mend it")


def image_number(row: Mapping[str, Any], names: Iterable[str], where: str) -> int:
    """Get an image's id from a row: a whole number, or COCO's name of the picture, by the first name that holds one.

    Raises:
        EvalDataError: no field holds one.
    """
    known = list(names)
    there = [row[name] for name in known if name in row]
    found = next((number for value in there if (number := image_number_of(value)) is not None), None)
    if found is not None:
        return found
    if there and isinstance(there[0], str):
        raise EvalDataError(
            f"{where}: the image id is {there[0]!r:.60}, expected a whole number or a picture's name that ends in one "
            "(COCO_val2014_000000000139.jpg): mend it"
        )
    return whole_number(row, known[:3], where)


def number_of(value: Any) -> int | None:
    """A whole number from 0, or one in decimal digits, with at most 18 digits; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_DIGITS:
        return value
    return None


def image_number_of(value: Any) -> int | None:
    """The number of an image: as `number_of`, or the digits at the end of a picture's name; None without them."""
    found = number_of(value)
    if found is None and isinstance(value, str):
        name = _IMAGE_NAME.search(value.strip())
        found = int(name[1]) if name else None
    return found


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


def refuse_empty(texts: Sequence[str], where: str | Path) -> None:
    """Refuse answers none of which has a word: every rule would read something into them.

    Raises:
        EvalDataError: all of them are empty.
    """
    if texts and not any(text.strip() for text in texts):
        raise no_word(len(texts), "answers", where)


def no_word(count: int, what: str, where: str | Path) -> EvalDataError:
    """The error for texts none of which has a word."""
    return EvalDataError(
        f"none of the {count} {what} of {where} has a word, so no score is made of them: check how they were written; "
        "a model that overflows in float16 says nothing, and does in bfloat16"
    )


def listed(values: Iterable[Any]) -> str:
    """List the first few values, and how many more there are."""
    every = list(values)
    shown = ", ".join(map(str, every[:_SHOWN]))
    return f"{shown} and {len(every) - _SHOWN} more" if len(every) > _SHOWN else shown or "nothing"


_KINDS = {int: "a whole number", str: "text", list: "a list", dict: "an object", float: "a number"}
