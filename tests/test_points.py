from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import xy_to_cells
from scipy import ndimage

from grounding.errors import EmptyMapError, MethodError
from grounding.points import (
    ArgMax,
    MaxMinPair,
    OtsuBox,
    SpreadPoints,
    cells_to_xy,
    connected_region,
    otsu_threshold,
    suppress,
)
from grounding.types import Heatmap

RULES = [
    ArgMax(),
    MaxMinPair(),
    MaxMinPair(threshold="otsu", connectivity=4),
    SpreadPoints(),
    SpreadPoints(count=5, negatives=4, gap=0.2, spacing=0.2, with_box=True),
    SpreadPoints(ring=3.0, gap=0.5, region="heaviest"),
    OtsuBox(),
    OtsuBox(region="largest", with_point=False),
]


def _blob_map(seed: int, shape: tuple[int, int], size=(120, 90)) -> Heatmap:
    """A smooth map whose values all differ, so that nothing is decided by reading order."""
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.random(shape), 1.2)
    values = (values - values.min()) / np.ptp(values)
    return Heatmap(values.astype(np.float32), size)


def _heat(values, size=None) -> Heatmap:
    values = np.asarray(values, np.float32)
    return Heatmap(values, size or (values.shape[1] * 10, values.shape[0] * 10))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 3000), st.integers(2, 3000), st.integers(0, 2**32 - 1))
def test_cells_to_pixels_and_back(height, width, across, down, seed):
    rng = np.random.default_rng(seed)
    cells = np.stack([rng.integers(0, height, 20), rng.integers(0, width, 20)], 1)
    xy = cells_to_xy(cells, (height, width), (across, down))
    assert (xy > 0).all()
    assert (xy < [across, down]).all()
    np.testing.assert_array_equal(xy_to_cells(xy, (height, width), (across, down)), cells)


def test_a_cells_point_is_its_centre():
    xy = cells_to_xy(np.array([[0, 0], [2, 3]]), (3, 4), (80, 30))
    np.testing.assert_array_equal(xy, [[10, 5], [70, 25]])
    np.testing.assert_array_equal(xy_to_cells(np.array([[80, 30], [0, 0]]), (3, 4), (80, 30)), [[2, 3], [0, 0]])


@settings(max_examples=25)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(st.integers(0, 2**32 - 1), st.integers(3, 14), st.integers(3, 14))
def test_mirroring_the_map_mirrors_the_points(rule, seed, height, width):
    heatmap = _blob_map(seed, (height, width))
    values, (across, down) = heatmap.values, heatmap.image_size
    if len(np.unique(values)) < values.size:
        return
    points = rule(heatmap)
    for flipped, turn in (
        (values[:, ::-1], lambda x, y: (across - x, y)),
        (values[::-1], lambda x, y: (x, down - y)),
    ):
        mirrored = rule(Heatmap(flipped.copy(), heatmap.image_size))
        expected = np.stack(turn(points.xy[:, 0], points.xy[:, 1]), 1)
        np.testing.assert_allclose(mirrored.xy, expected, atol=1e-3)
        np.testing.assert_array_equal(mirrored.label, points.label)
        np.testing.assert_array_equal(mirrored.weight, points.weight)
        if points.box_xyxy is not None:
            x0, y0, x1, y1 = points.box_xyxy
            corners = np.array([turn(x0, y0), turn(x1, y1)])
            np.testing.assert_allclose(mirrored.box_xyxy, [*corners.min(0), *corners.max(0)], atol=1e-3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_empty_map_is_refused(rule):
    with pytest.raises(EmptyMapError, match="heat map is empty"):
        rule(_heat(np.zeros((4, 5))))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_map_that_is_one_everywhere_or_one_cell_still_gives_a_prompt(rule):
    for values in (np.ones((4, 5)), np.ones((1, 1)), np.pad([[1.0]], 3)):
        points = rule(_heat(values))
        assert (points.label == 1).any() or points.box_xyxy is not None


def test_argmax():
    points = ArgMax()(_heat([[0, 0.5, 0], [0, 0, 1]]))
    np.testing.assert_array_equal(points.xy, [[25, 15]])
    np.testing.assert_array_equal(points.weight, [1])


def test_pair_takes_the_largest_piece_and_not_the_highest_peak():
    values = np.array([[0.7, 0.8, 0, 1.0], [0.6, 0.7, 0, 0], [0, 0, 0.1, 0.02]])
    points = MaxMinPair()(_heat(np.where(values == 0, 0.05, values)))
    np.testing.assert_array_equal(points.xy, [[15, 5], [35, 25]])
    np.testing.assert_array_equal(points.label, [1, 0])


def test_pair_prefers_the_farthest_of_equal_minima():
    values = np.zeros((1, 7))
    values[0, :2] = 1
    np.testing.assert_array_equal(MaxMinPair()(_heat(values)).xy[1], [65, 5])


def test_connectivity_decides_about_diagonals():
    values = _heat([[0.9, 0, 0], [0, 0.8, 0], [0, 0, 0], [1, 0, 0]]).values
    assert connected_region(values, 0.5, "largest", 8).sum() == 2
    assert connected_region(values, 0.5, "largest", 4).sum() == 1
    assert connected_region(values, 0.5, "peak")[3, 0]


def test_the_heaviest_piece_may_be_smaller():
    values = _heat([[0.5, 0.5, 0.5, 0, 1, 1]]).values
    assert connected_region(values, 0.5, "largest")[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert connected_region(values, 0.5, "heaviest")[0].tolist() == [0, 0, 0, 0, 1, 1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_otsu_is_the_best_of_all_cuts(numbers):
    values = np.array(numbers, np.float64)
    cut = otsu_threshold(values)

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return 0.0 if len(low) * len(high) == 0 else len(low) * len(high) * (low.mean() - high.mean()) ** 2

    assert between(cut) == pytest.approx(max(between(value) for value in values))


def test_otsu_box_is_tight_in_pixels():
    values = np.full((6, 8), 0.1)
    values[2:4, 3:6] = 0.9
    values[3, 4] = 1
    points = OtsuBox()(_heat(values, (160, 60)))
    assert points.box_xyxy == (60, 20, 120, 40)
    np.testing.assert_array_equal(points.xy, [[90, 35]])
    assert OtsuBox(with_point=False)(_heat(values)).xy.shape == (0, 2)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_spread_points_keep_their_distances(seed):
    heatmap = _blob_map(seed, (16, 16), (160, 160))
    rule = SpreadPoints(count=4, negatives=3, gap=0.6, spacing=0.4)
    region = connected_region(heatmap.values, rule.threshold, rule.region)
    unit = np.sqrt(region.sum())
    points = rule(heatmap)
    cells = xy_to_cells(points.xy, (16, 16), (160, 160))
    on, off = cells[points.label == 1], cells[points.label == 0]
    assert 1 <= len(on) <= 4
    assert region[tuple(on.T)].all()
    assert not region[tuple(off.T)].any()
    for group in (on, off):
        gaps = [np.hypot(*(a - b)) for i, a in enumerate(group) for b in group[:i]]
        assert min(gaps, default=np.inf) >= rule.spacing * unit - 1e-9
    away = ndimage.distance_transform_edt(~region)
    assert (away[tuple(off.T)] > rule.gap * unit).all()


def test_points_stay_away_from_the_regions_edge():
    values = np.zeros((11, 15))
    values[2:9, 2:13] = 1  # flat: only the depth decides
    for x, y in SpreadPoints(count=3, negatives=0)(_heat(values)).xy:
        assert 40 < x < 110
        assert 40 < y < 70


def test_a_corner_is_no_place_for_a_point_when_the_region_reaches_the_border():
    values = np.zeros((9, 9))
    values[:5, :5] = 1
    np.testing.assert_array_equal(SpreadPoints(count=1, negatives=0)(_heat(values)).xy, [[25, 25]])


def test_depth_power_zero_follows_the_values():
    values = np.full((5, 5), 0.6)
    values[0, 4] = 1
    assert SpreadPoints(count=1, negatives=0, depth_power=0, margin=0)(_heat(values)).xy.tolist() == [[45, 5]]
    assert SpreadPoints(count=1, negatives=0, depth_power=2, margin=0)(_heat(values)).xy.tolist() == [[25, 25]]


def test_ring_keeps_negatives_near():
    values = np.zeros((20, 20))
    values[8:12, 8:12] = 1
    values[:, -1] = 0.01
    near = SpreadPoints(negatives=4, gap=0.5, ring=1.5)(_heat(values))
    away = np.abs(near.xy[near.label == 0] - 100).max(1)
    assert len(away) == 4
    assert (away < 20 + 60 + 5).all()


def test_suppression_is_greedy_and_stops():
    score = np.array([[5.0, 4, 3, 2, -np.inf]])
    assert suppress(score, 9, 2).tolist() == [[0, 0], [0, 2]]
    assert suppress(score, 9, 0).tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert suppress(np.full((2, 2), -np.inf), 3, 1).shape == (0, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaxMinPair(threshold=0.0),
        lambda: SpreadPoints(threshold=1.5),
        lambda: SpreadPoints(count=0),
        lambda: SpreadPoints(ring=0.5, gap=1.0),
    ],
)
def test_numbers_without_meaning_are_refused(make):
    with pytest.raises(MethodError, match="points rule"):
        make()
