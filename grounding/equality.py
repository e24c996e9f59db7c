"""Equality by value for dataclasses that hold arrays, whose own `==` gives an array instead of an answer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np


class ByValue:
    """Base of frozen dataclasses with array fields; declare them with `eq=False`.

    Two objects are equal if they are of one class and all fields that count in comparisons are equal; arrays are equal
    if shape and values are, NaN included. Like arrays, the objects have no hash.
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = (one.name for one in dataclasses.fields(self) if one.compare)  # type: ignore[arg-type]
        return all(_same(getattr(self, name), getattr(other, name)) for name in compared)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc")
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
