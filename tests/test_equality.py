from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from made_maps import made_maps

from grounding.equality import ByValue
from grounding.types import Heatmap, PointPrompts


def test_maps_heat_maps_and_points_answer_with_one_bool() -> None:
    maps = made_maps()
    assert (maps == maps) is True
    assert maps == replace(maps, values=maps.values.copy())
    assert maps != replace(maps, values=maps.values + 1)
    assert maps != replace(maps, image_size=(maps.image_size[0] + 1, maps.image_size[1]))
    points = PointPrompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64), np.ones(1, np.float32))
    assert points == replace(points)
    assert points != replace(points, xy=np.ones((1, 2), np.float32))
    heatmap = Heatmap(np.full((2, 2), 0.5, np.float32), (4, 4))
    assert heatmap == replace(heatmap)
    assert heatmap != points
    assert heatmap != "heatmap"


@dataclass(frozen=True, eq=False)
class _Bag(ByValue):
    held: object


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
        (np.array([1.0]), np.array([[1.0]]), False),
        ({"a": np.zeros(2)}, {"a": np.zeros(2)}, True),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}, False),
        ((np.zeros(2), 1), (np.zeros(2), 1), True),
        ((np.zeros(2),), [np.zeros(2)], False),
        (np.array(["a"]), np.array(["a"]), True),
        (None, np.zeros(1), False),
    ],
)
def test_arrays_inside_other_values(one: object, other: object, same: bool) -> None:
    assert (_Bag(one) == _Bag(other)) is same


def test_like_arrays_they_have_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(_Bag(1))
