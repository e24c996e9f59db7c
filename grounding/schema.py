"""Plain data into a frozen dataclass, strictly: every key known, every value of its type.

The files under `configs/` go through here, so that a misspelt key is an error that names the right ones and never a
default in disguise.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from grounding.errors import GroundingError, MethodError

T = TypeVar("T")


def build(cls: type[T], data: object, where: str, error: type[GroundingError] = MethodError) -> T:
    """Make a dataclass from a mapping of its fields.

    Lists stand for tuples, and a whole number for a fraction; nothing else is converted, so "3" is no number.

    Args:
        cls: a dataclass whose fields are numbers, strings, tuples, literals or such dataclasses.
        data: what a YAML or JSON file held; None stands for an empty mapping.
        where: where it was read, for the message ("methods/mine.yaml: stage 'smooth'").
        error: the exception to raise.

    Returns:
        The dataclass.

    Raises:
        GroundingError: of the given class, for unknown keys, missing keys and values of the wrong type.
    """
    mapping = as_mapping(data, where, error)
    assert dataclasses.is_dataclass(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    check_keys(mapping, fields, where, error)
    needed = dataclasses.MISSING
    missing = [
        name
        for name, field in fields.items()
        if name not in mapping and field.default is needed and field.default_factory is needed
    ]
    if missing:
        raise error(f"{where}: {' and '.join(missing)} must be given")
    hints = get_type_hints(cls)
    values = {name: _convert(hints[name], value, f"{where}: {name}", error) for name, value in mapping.items()}
    try:
        return cls(**values)
    except GroundingError as wrong:
        # A dataclass's own message may begin with its name, which `where` ends with.
        file, separator, what = where.rpartition(": ")
        again = bool(separator) and str(wrong).startswith(what)
        raise error(f"{file if again else where}: {wrong}") from wrong


def as_mapping(data: object, where: str, error: type[GroundingError] = MethodError) -> Mapping[str, Any]:
    """The data as a mapping with string keys; None is an empty one.

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
    unknown = [key for key in mapping if key not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        listed = ", ".join(names) or "none at all"
        raise error(f"{where}: unknown key {', '.join(map(repr, unknown))}{hint}; the known ones are {listed}")


def plain(value: Any) -> Any:
    """A dataclass or tuple as the mappings and lists that `build` reads back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _convert(hint: Any, value: object, where: str, error: type[GroundingError]) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where, error)
    try:
        # JSON's strict mode is the wanted one: lists may become tuples, but a string never becomes a number.
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (TypeError, ValueError) as wrong:
        reason = wrong.errors()[0]["msg"] if isinstance(wrong, ValidationError) else "not a plain value"
        raise error(f"{where}: got {_show(value)}: {reason[0].lower()}{reason[1:]}") from wrong


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
