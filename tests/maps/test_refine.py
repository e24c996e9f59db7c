from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import cells, made_maps, one_row

from grounding.errors import MethodError
from grounding.maps.logits import LogitLens
from grounding.maps.refine import BiasedCut, Propagate
from grounding.maps.refine import cut as cut_module
from grounding.maps.smooth import SmoothRanks
from grounding.methods import load_method, parse_method

HALVES = np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0).astype(bool)  # the left thing and the right one


def two_things(peak=(1, 1), noise: float = 0.05):
    """A map of one hot cell on the left thing, whose cells share a feature that the right one's do not have."""
    values = np.full((4, 6), 0.1, np.float32)
    values[peak] = 1
    rng = np.random.default_rng(0)
    features = np.where(HALVES.reshape(-1, 1), [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]) + noise * rng.normal(size=(24, 3))
    return replace(one_row(values), features=features.astype(np.float32))


@pytest.mark.parametrize("stage", [Propagate(), BiasedCut(keep="cut"), BiasedCut(keep="cut", vectors=1)])
def test_a_hot_cell_fills_its_thing(stage) -> None:
    for peak, inside in (((1, 1), HALVES), ((2, 4), ~HALVES)):
        result = cells(stage(two_things(peak))[0]).reshape(4, 6)
        assert result[inside].min() > 1.3 * result[~inside].max()


def test_a_weighing_cut_keeps_the_peak_and_drops_the_other_thing() -> None:
    maps = two_things()
    result, report = BiasedCut()(maps)
    found = cells(result).reshape(4, 6)
    assert found.argmax() == cells(maps).argmax()
    assert not found[~HALVES].any()
    assert report.removed == pytest.approx(0.1 * 12 / maps.values.sum(), rel=1e-5)


def test_propagation_is_a_walk_that_keeps_a_flat_map_flat() -> None:
    maps = two_things()
    flat = replace(maps, values=np.full_like(maps.values, 0.3))
    np.testing.assert_allclose(Propagate()(flat)[0].values, 0.3, rtol=1e-5)
    one = cells(Propagate(steps=1, share=0.5)(maps)[0]).ravel()
    centred = maps.features - maps.features.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    likeness = np.maximum(unit @ unit.T, 0) ** 4
    walk = likeness / likeness.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(one, 0.5 * maps.values.ravel() + 0.5 * walk @ maps.values.ravel(), rtol=1e-4)


def test_lanczos_finds_the_eigenvectors_of_the_dense_solver(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.1, 1, (40, 40))
    weights = weights + weights.T
    degree, values, vectors = cut_module._eigenvectors(weights, 3)
    monkeypatch.setattr(cut_module, "_DENSE", 10)
    _, again, other = cut_module._eigenvectors(weights, 3)
    np.testing.assert_allclose(again, values, atol=1e-8)
    for one, two in zip(vectors.T, other.T, strict=True):
        assert abs((one * degree) @ two) == pytest.approx(1, abs=1e-6)
        # (D - W) y = lambda D y
    np.testing.assert_allclose(
        degree[:, None] * vectors - weights @ vectors, degree[:, None] * vectors * values, atol=1e-9
    )


def test_maps_of_cells_that_are_all_alike_or_unknown_stay_finite() -> None:
    maps = two_things()
    for features in (np.zeros((24, 3)), np.ones((24, 3))):
        same = replace(maps, features=features.astype(np.float32))
        np.testing.assert_allclose(Propagate()(same)[0].values, maps.values, rtol=1e-6)
        assert np.isfinite(BiasedCut()(same)[0].values).all()


@pytest.mark.parametrize("stage", [Propagate(), BiasedCut()])
def test_features_must_have_been_recorded(stage) -> None:
    with pytest.raises(MethodError, match="record them"):
        stage(replace(two_things(), features=None))


def test_a_contrast_comes_before_a_refinement() -> None:
    head = "description: d\nsource: s\nstages: [{stage: refine-cut}, {stage: contrast-ratio, prompt: x}]"
    with pytest.raises(MethodError, match="'contrast-ratio' must come before 'refine-cut'"):
        parse_method(head, "mine", "mine.yaml")


@pytest.mark.parametrize("make", [lambda: Propagate(share=1), lambda: BiasedCut(tau=1), lambda: BiasedCut(gamma=1)])
def test_numbers_out_of_range_are_refused(make) -> None:
    with pytest.raises(MethodError, match="needs"):
        make()


def test_logits_take_the_place_of_attention_and_follow_the_words() -> None:
    maps = made_maps()
    result, _ = LogitLens()(maps)
    np.testing.assert_array_equal(result.values[0, 0, 0], np.maximum(maps.logits, 0))
    with pytest.raises(MethodError, match=r"RecordSpec.logits"):
        LogitLens()(replace(maps, logits=None))
    method = load_method("tam")
    spec = method.record_spec(12)
    assert spec.logits
    assert spec.reduce == "heads"


def test_a_single_hot_cell_falls_and_a_plateau_stays() -> None:
    spike = np.ones((7, 7))
    spike[3, 3] = 50
    result = cells(SmoothRanks()(one_row(spike))[0]).reshape(7, 7)
    assert result[3, 3] < 15
    np.testing.assert_allclose(cells(SmoothRanks()(one_row(np.full((5, 5), 3.0)))[0]), 3)
