"""Convert plain data (YAML, JSON) into frozen dataclasses, strictly: unknown keys and wrong types are errors.

The files under `configs/` are read with this module, so a misspelt key is an error that names the valid ones instead of
a silently used default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from grounding.errors import GroundingError, MethodError

T = TypeVar("T")


def build(cls: type[T], data: object, where: str, error: type[GroundingError] = MethodError) -> T:
    """Make a dataclass from a mapping of its fields.

    Lists become tuples and whole numbers become floats; nothing else is converted, so "3" is not a number.

    Args:
        cls: a dataclass whose fields are numbers, strings, tuples, mappings, literals or such dataclasses.
        data: the content of a YAML or JSON file; None is an empty mapping.
        where: the place that was read, for the message ("methods/mine.yaml: stage 'smooth'").
        error: the exception to raise.

    Raises:
        GroundingError: of the given class, for unknown keys, missing keys and values of the wrong type.
    """
    mapping = as_mapping(data, where, error)

    def refuse(value: object) -> Any:
        raise error(f"{where}: got {_show(value)}: not a plain value")

    text = json.dumps([mapping], default=refuse)
    try:
        # Strict validation of JSON lets lists become tuples, but a string never becomes a number.
        return _adapter(cls).validate_json(text)[0]  # type: ignore[arg-type]
    except ValidationError as wrong:
        raise error(_sentence(cls, mapping, wrong.errors(), where)) from wrong
    except GroundingError as wrong:
        # From `__post_init__`; its message may begin with the dataclass's name, with which `where` ends.
        file, separator, what = where.rpartition(": ")
        again = bool(separator) and str(wrong).startswith(what)
        raise error(f"{file if again else where}: {wrong}") from wrong


def yaml_mapping(text: str, where: str, error: type[GroundingError] = MethodError) -> Mapping[str, Any]:
    """Read the text of a YAML file as a mapping with string keys; an empty text is an empty one.

    Raises:
        GroundingError: of the given class, if it is not YAML, or something else.
    """
    try:
        data = parse_yaml(text)
    except ValueError as wrong:
        raise error(f"{where} is not YAML: {' '.join(str(wrong).split())}") from wrong
    return as_mapping(data, where, error)


def parse_yaml(text: str) -> Any:
    """Parse YAML text; a byte order mark before it is skipped.

    Raises:
        ValueError: it is not YAML, nested deeper than Python's stack, or holds a number of too many digits.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        raise ValueError(str(wrong)) from wrong
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_mapping(data: object, where: str, error: type[GroundingError] = MethodError) -> Mapping[str, Any]:
    """Return the data as a mapping with string keys; None is an empty one.

    Raises:
        GroundingError: of the given class, if it is something else.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise error(f"{where}: expected keys and values, got {_show(data)}")
    return data


def check_keys(
    mapping: Mapping[str, Any], known: Iterable[str], where: str, error: type[GroundingError] = MethodError
) -> None:
    """Refuse keys that are not known.

    Raises:
        GroundingError: of the given class, naming the known keys and the nearest one.
    """
    names = list(known)
    if unknown := [key for key in mapping if key not in names]:
        raise error(_unknown(unknown, names, where))


def plain(value: Any) -> Any:
    """Convert a dataclass or tuple to the mappings and lists that `build` reads back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


@cache
def _adapter(cls: Any) -> TypeAdapter[tuple[Any]]:
    # A dataclass inside a tuple takes the adapter's configuration; one by itself would need its own.
    return TypeAdapter(tuple[cls], config=ConfigDict(strict=True, extra="forbid"))


def _sentence(cls: type, mapping: Mapping[str, Any], errors: Sequence[ErrorDetails], where: str) -> str:
    """Say what is wrong: unknown keys first, then missing keys, then the first wrong value."""
    for kind in ("unexpected_keyword_argument", "missing"):
        found = [one["loc"] for one in errors if one["type"] == kind and isinstance(one["loc"][-1], str)]
        if found:
            path, _ = _follow(mapping, found[0][1:-1])
            names = [str(loc[-1]) for loc in found if loc[:-1] == found[0][:-1]]
            place = ": ".join([where, *path])
            if kind == "missing":
                return f"{place}: {' and '.join(names)} must be given"
            return _unknown(names, _field_names(cls, path), place)
    loc = errors[0]["loc"][1:]
    while loc and isinstance(loc[-1], int):  # a list is shown as a whole
        loc = loc[:-1]
    path, value = _follow(mapping, loc)
    place, reason = ": ".join([where, *path]), errors[0]["msg"]
    if errors[0]["type"] == "dataclass_type":
        return f"{place}: expected keys and values, got {_show(value)}"
    return f"{place}: got {_show(value)}: {reason[0].lower()}{reason[1:]}"


def _follow(value: Any, loc: Sequence[str | int]) -> tuple[list[str], Any]:
    """Follow pydantic's location into the data, without the parts that name a member of a union."""
    path = []
    for part in loc:
        if isinstance(value, Mapping) and part in value:
            path.append(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(f"item {part + 1}")
        else:
            continue
        value = value[part]
    return path, value


def _field_names(cls: type, path: Sequence[str]) -> list[str]:
    """Names of the fields of the dataclass at a place inside another."""
    for part in path:
        hint = get_type_hints(cls).get(part)
        cls = _dataclass_in(hint) or cls
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _dataclass_in(hint: Any) -> type | None:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((found for part in get_args(hint) if (found := _dataclass_in(part))), None)


def _unknown(unknown: Sequence[str], known: Sequence[str], where: str) -> str:
    near = difflib.get_close_matches(unknown[0], known, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    listed = ", ".join(known) or "none at all"
    return f"{where}: unknown key {', '.join(map(repr, unknown))}{hint}; the known ones are {listed}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
