from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import LAST, cells, made_maps, one_row, with_background

from grounding.errors import MethodError
from grounding.maps.heads import HeadMaxImage, HeadMean, HeadMeanMax
from grounding.maps.selection import HeadsByEntropy, HeadsFixed, head_frequencies


def test_mean_keeps_the_axis():
    maps = made_maps()
    result, report = HeadMean()(maps)
    np.testing.assert_allclose(result.values, maps.values.mean(2, keepdims=True), rtol=1e-6)
    assert report.removed == 0
    assert result.layers == maps.layers


def test_mean_max_is_the_papers_formula():
    maps = made_maps(steps=2)
    result, _ = HeadMeanMax()(maps)
    weights = maps.head_statistics["max_all"]
    heads = maps.values.shape[2]
    for layer in range(4):
        expected = sum(weights[layer, h] * maps.values[:, layer, h] for h in range(heads)) / heads
        np.testing.assert_allclose(result.values[:, layer, 0], expected, rtol=1e-5)


def test_max_image_gives_the_strongest_head_weight_one():
    maps = made_maps(heads=2)
    statistics = {"max_image": np.array([[0.2, 0.1]] * 4, np.float32)}
    result, report = HeadMaxImage()(replace(maps, head_statistics=statistics))
    expected = (maps.values[:, :, 0] + 0.5 * maps.values[:, :, 1]) / 2
    np.testing.assert_allclose(result.values[:, :, 0], expected, rtol=1e-5)
    assert 0 < report.removed < 0.5


def test_max_image_of_heads_that_see_nothing_is_finite():
    maps = replace(made_maps(heads=2), head_statistics={"max_image": np.zeros((4, 2), np.float32)})
    assert not HeadMaxImage()(maps)[0].values.any()


@pytest.mark.parametrize("stage", [HeadMeanMax(), HeadMaxImage()])
def test_missing_statistic_says_what_to_record(stage):
    with pytest.raises(MethodError, match="record_spec"):
        stage(replace(made_maps(), head_statistics={}))


def test_statistic_of_other_heads_is_refused():
    maps = made_maps()
    with pytest.raises(MethodError, match="without reduction"):
        HeadMeanMax()(replace(maps, values=maps.values[:, :, :1]))


def test_the_geometric_mean_is_the_attention_of_one_wide_head():
    generator = np.random.default_rng(3)
    maps = made_maps()
    logits = generator.normal(size=maps.values.shape).astype(np.float32)
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    pairs = ((1, 0), (3, 2))
    at = [maps.layers.index(layer) for layer, _ in pairs]
    wide = np.exp(np.mean([logits[:, i, head] for i, (_, head) in zip(at, pairs, strict=True)], axis=0))
    result, _ = HeadsFixed(pairs=pairs, join="geometric")(replace(maps, values=weights))
    found = result.values[:, 0, 0]
    np.testing.assert_allclose(
        found / found.sum(axis=-1, keepdims=True), wide / wide.sum(axis=-1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("stage", [HeadMean(), HeadMeanMax(), HeadMaxImage(), HeadsFixed(pairs=((2, 1),))])
def test_background_goes_through_the_same_stage(stage):
    maps = with_background(made_maps())
    result, _ = stage(maps)
    alone, _ = stage(maps.background)
    np.testing.assert_array_equal(result.background.values, alone.values)


def test_fixed_heads_are_named_by_the_models_layers():
    maps = made_maps(layers=(10, 11, 14, 15))
    result, report = HeadsFixed(pairs=((14, 2), (10, 0)))(maps)
    np.testing.assert_allclose(result.values[:, 0, 0], (maps.values[:, 2, 2] + maps.values[:, 0, 0]) / 2, rtol=1e-6)
    assert result.layers == ()
    assert result.residual_sinks is None
    assert 0 < report.removed < 1


@pytest.mark.parametrize("pair", [(4, 0), (0, 3)])
def test_fixed_heads_that_were_not_recorded_are_refused(pair):
    with pytest.raises(MethodError, match=f"layer {pair[0]} head {pair[1]}"):
        HeadsFixed(pairs=(pair,))(made_maps())


@pytest.mark.parametrize("pairs", [(), ((1, 2), (1, 2)), ((-1, 0),)])
def test_fixed_heads_must_be_different_and_from_zero_up(pairs):
    with pytest.raises(MethodError, match="heads-fixed"):
        HeadsFixed(pairs=pairs)


def _with_a_pointing_head(seed: int, layer: int = 2, head: int = 1):
    """All heads look at scattered cells, one looks at a single blob."""
    maps = made_maps(seed, shape=(6, 8), size=(80, 60))
    values = maps.values.copy()
    checker = (np.indices((6, 8)).sum(0) % 3 == 0) + 0.01
    values[..., 4:] = (checker / checker.sum() * 0.5).ravel()
    blob = np.full((6, 8), 0.001)
    blob[2:4, 3:5] = 0.2
    values[:, layer, head, :, 4:] = blob.ravel()
    return replace(maps, values=values.astype(np.float32))


def test_entropy_finds_the_head_that_points():
    maps = _with_a_pointing_head(0)
    rule = HeadsByEntropy(count=1, min_share=0.3)
    assert rule.pick(maps) == ((2, 1),)
    result, report = rule(maps)
    np.testing.assert_allclose(result.values[:, 0, 0], maps.values[:, 2, 1], rtol=1e-6)
    assert report.data["heads"] == [[2, 1]]


def test_entropy_skips_the_first_layers():
    maps = _with_a_pointing_head(0, layer=1)
    assert HeadsByEntropy(count=1, skip_layers=2).pick(maps) != ((1, 1),)
    assert HeadsByEntropy(count=1, skip_layers=1).pick(maps) == ((1, 1),)
    with pytest.raises(MethodError, match="skip_layers"):
        HeadsByEntropy(skip_layers=4).pick(maps)


def test_entropy_leaves_out_heads_that_hardly_look_at_the_image():
    maps = _with_a_pointing_head(0)
    values = maps.values.copy()
    values[:, 2, 1] *= 0.01
    assert (2, 1) not in HeadsByEntropy(count=1, min_share=0.2).pick(replace(maps, values=values))


def test_entropy_uses_the_same_heads_for_the_background():
    maps = with_background(_with_a_pointing_head(0))
    result, _ = HeadsByEntropy(count=1, min_share=0.3)(maps)
    np.testing.assert_allclose(result.background.values[:, 0, 0], maps.background.values[:, 2, 1], rtol=1e-6)


def test_entropy_judges_the_last_row_and_not_the_words():
    maps = _with_a_pointing_head(0)
    values = maps.values.copy()
    values[:, 2, 1, :-1], values[:, 2, 1, -1] = maps.values[:, 2, 0, :1], maps.values[:, 2, 1, 0]
    assert maps.words[-1] == LAST
    assert HeadsByEntropy(count=1, min_share=0.3).pick(replace(maps, values=values)) == ((2, 1),)


def test_flat_heads_are_never_preferred():
    maps = _with_a_pointing_head(0)
    values = maps.values.copy()
    values[:, 3, 0, :, 4:] = 1 / 48
    assert HeadsByEntropy(count=1).pick(replace(maps, values=values)) == ((2, 1),)


def test_frequencies_rank_the_head_that_points_everywhere():
    samples = [_with_a_pointing_head(seed) for seed in range(4)] + [_with_a_pointing_head(9, layer=3, head=0)]
    assert head_frequencies(iter(samples), HeadsByEntropy(count=1)) == [((2, 1), 0.8), ((3, 0), 0.2)]


def test_selection_after_the_layers_are_gone_is_refused():
    gone = replace(one_row([[1, 2], [3, 4]]), layers=())
    with pytest.raises(MethodError, match="single layers"):
        HeadsFixed(pairs=((0, 0),))(gone)


def test_the_made_cells_are_where_the_stages_look():
    maps = made_maps()
    assert cells(maps).shape == (1, 4, 3, 5, 4, 6)
