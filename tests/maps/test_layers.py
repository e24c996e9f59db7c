from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import made_maps, with_background

from grounding.errors import MethodError
from grounding.maps.layers import LayerChoice, LayerMean


@pytest.mark.parametrize(
    ("choice", "count", "expected"),
    [
        (LayerChoice(), 4, (0, 1, 2, 3)),
        (LayerChoice(start=0.5), 28, tuple(range(14, 28))),
        (LayerChoice(start=0.5), 5, (3, 4)),
        (LayerChoice(start=0.07), 100, tuple(range(7, 100))),
        (LayerChoice(start=0.3), 5, (2, 3, 4)),
        (LayerChoice(start=0, stop=1), 3, (0, 1, 2)),
        (LayerChoice(start=0.44, stop=0.63), 2, (1,)),
        (LayerChoice(start=0.9, stop=0.95), 4, (3,)),
        (LayerChoice(skip=2), 5, (2, 3, 4)),
        (LayerChoice(stop=0.5, skip=1), 4, (1,)),
        (LayerChoice(start=0.25, stop=0.75), 4, (1, 2)),
        (LayerChoice(indices=(2, 0, 2)), 4, (0, 2)),
        (LayerChoice(indices=(-1, -2)), 4, (2, 3)),
    ],
)
def test_layers_are_counted_over_the_whole_model(choice, count, expected):
    assert choice.chosen(count) == expected


def test_neighbouring_stretches_share_no_layer_and_lose_none():
    for count in range(1, 40):
        parts = [LayerChoice(start=a, stop=b).chosen(count) for a, b in ((0, 1 / 3), (1 / 3, 0.7), (0.7, 1))]
        assert all(parts)
        whole = [layer for part in parts for layer in part]
        if count >= 4:  # each stretch is longer than a layer
            assert whole == list(range(count))
        assert set(whole) == set(range(count))


def test_choice_takes_statistics_and_sinks_along():
    maps = with_background(made_maps(layers=(0, 1, 2, 3)))
    result, report = LayerChoice(start=0.5)(maps)
    assert result.layers == (2, 3)
    np.testing.assert_array_equal(result.values, maps.values[:, 2:])
    np.testing.assert_array_equal(result.head_statistics["max_all"], maps.head_statistics["max_all"][2:])
    np.testing.assert_array_equal(result.residual_sinks, maps.residual_sinks[2:])
    np.testing.assert_array_equal(result.background.values, maps.background.values[:, 2:])
    assert report.removed == pytest.approx(0.5, abs=1e-6)


def test_fewer_recorded_layers_need_the_models_depth():
    maps = made_maps(layers=(8, 9, 10, 11))
    with pytest.raises(MethodError, match="layer_count"):
        LayerChoice(start=0.5)(maps)
    result, _ = LayerChoice(start=0.75)(replace(maps, layer_count=12))
    assert result.layers == (9, 10, 11)
    assert LayerChoice(indices=(9,))(maps)[0].layers == (9,)


def test_a_layer_that_was_not_recorded_is_named():
    with pytest.raises(MethodError, match=r"\[6, 7\]"):
        LayerChoice(start=0.5)(replace(made_maps(layers=(8, 9, 10, 11)), layer_count=12))


@pytest.mark.parametrize(
    "arguments",
    [
        {"indices": (1,), "start": 0.5},
        {"indices": (1,), "skip": 1},
        {"start": 0.6, "stop": 0.5},
        {"stop": 1.5},
        {"skip": -1},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(MethodError, match=r"layers (need|are given)|not a share"):
        LayerChoice(**arguments)


@pytest.mark.parametrize(
    "choice",
    [LayerChoice(indices=(4,)), LayerChoice(indices=(-5,)), LayerChoice(start=0.5, skip=4), LayerChoice(skip=4)],
)
def test_layers_outside_the_model_are_refused(choice):
    with pytest.raises(MethodError, match="4"):
        choice.chosen(4)


def test_mean_drops_what_was_told_per_layer():
    maps = made_maps()
    result, _ = LayerMean()(maps)
    np.testing.assert_allclose(result.values, maps.values.mean(1, keepdims=True), rtol=1e-6)
    assert (result.layers, result.head_statistics, result.residual_sinks) == ((), {}, None)
    with pytest.raises(MethodError, match="single layers"):
        LayerChoice()(replace(result, values=np.repeat(result.values, 2, 1)))
