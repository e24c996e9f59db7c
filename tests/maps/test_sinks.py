from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import LAST, WORDS, cells, made_maps, with_background

from grounding.errors import MethodError
from grounding.maps.sinks import ColumnOutliers, ResidualSinks, fill_cells

SHAPE = (8, 8)


def _scene(sink=(1, 6), block=((4, 6), (2, 4)), words=WORDS, sink_height=1.0):
    """Rows of words: "red", "star" and the last look at a block, all of them look at one cell."""
    maps = made_maps(0, SHAPE, words=words, size=(80, 80))
    rng = np.random.default_rng(1)
    rows = np.zeros((len(words), *SHAPE))
    for index, word in enumerate(words):
        rows[index] = rng.uniform(0.01, 0.02, SHAPE)
        if word.text in ("red", "star", "<last>"):
            rows[index, slice(*block[0]), slice(*block[1])] += 0.5
        if sink:
            rows[index][sink] += sink_height * (2.5 if word.text in ("red", "star", "<last>") else 0.8)
    values = maps.values.copy()
    values[..., 4:] = rows.reshape(len(words), -1) * 0.1
    return replace(maps, values=values.astype(np.float32))


def test_the_sink_goes_and_the_object_stays():
    maps = _scene()
    result, report = ColumnOutliers()(maps)
    assert report.data["grid_row_column"] == [[0, 1, 6]]
    before, after = cells(maps), cells(result)
    np.testing.assert_array_equal(after[..., 4:6, 2:4], before[..., 4:6, 2:4])
    assert after[..., 1, 6].max() < 0.01
    assert 0 < report.removed < 1


def test_an_object_alone_is_no_sink():
    _, report = ColumnOutliers()(_scene(sink=None))
    assert report.data["grid_row_column"] == []
    assert report.removed == 0


def test_an_object_of_one_cell_is_saved_by_the_words_that_look_elsewhere():
    maps = _scene(sink=None, block=((4, 5), (2, 3)))
    assert ColumnOutliers()(maps)[1].data["grid_row_column"] == []
    assert ColumnOutliers(variation=10)(maps)[1].data["grid_row_column"] == [[0, 4, 2]]


def test_an_object_that_every_row_looks_at_is_saved_by_its_extent():
    maps = _scene(sink=None, words=(WORDS[1], WORDS[2], LAST))
    assert ColumnOutliers()(maps)[1].data["grid_row_column"] == []
    assert len(ColumnOutliers(isolation=0)(maps)[1].data["grid_row_column"]) == 4


def test_one_row_alone_tells_nothing_unless_there_is_a_background():
    maps = _scene(words=(LAST,))
    result, report = ColumnOutliers()(maps)
    assert "one row" in report.detail
    np.testing.assert_array_equal(result.values, maps.values)
    both = replace(maps, background=_scene(words=(LAST,), block=((0, 2), (0, 2))))
    result, report = ColumnOutliers()(both)
    assert report.data["grid_row_column"] == [[0, 1, 6]]
    assert cells(result.background)[..., 1, 6].max() < 0.01


def test_a_flat_map_and_an_empty_map_have_no_sinks():
    maps = made_maps()
    for value in (0.0, 0.01):
        flat = replace(maps, values=np.full_like(maps.values, value))
        result, report = ColumnOutliers()(flat)
        np.testing.assert_array_equal(result.values, flat.values)
        assert report.removed == 0


def test_mirrored_maps_lose_mirrored_cells():
    maps = _scene()
    mirrored = maps.values.copy()
    mirrored[..., 4:] = cells(maps)[..., ::-1].reshape(*maps.values.shape[:4], -1)
    report = ColumnOutliers()(replace(maps, values=mirrored))[1]
    assert report.data["grid_row_column"] == [[0, 1, 1]]


def test_residual_sinks_go_layer_by_layer_from_the_third_on():
    maps = made_maps(layers=(0, 1, 2, 3))
    phi = np.zeros_like(maps.residual_sinks)
    phi[:, 4] = 20.0  # the first cell
    phi[3, 5] = 25.0
    phi[3, 0] = 50.0  # a text column, which no map shows
    result, report = ResidualSinks(fill="zero")(replace(maps, residual_sinks=phi))
    before, after = cells(maps), cells(result)
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert not after[:, 2:, ..., 0, 0].any()
    np.testing.assert_array_equal(after[:, 2, ..., 0, 1], before[:, 2, ..., 0, 1])
    assert not after[:, 3, ..., 0, 1].any()
    assert report.data["sinks_per_layer"] == [0, 0, 1, 2]
    assert "2 of 24" in report.detail
    lost = before[:, 2:, ..., 0, 0].sum() + before[:, 3, ..., 0, 1].sum()
    assert report.removed == pytest.approx(lost / before.sum(), rel=1e-4)


def test_residual_sinks_that_were_not_recorded_are_asked_for():
    with pytest.raises(MethodError, match="residual_sinks=True"):
        ResidualSinks()(replace(made_maps(), residual_sinks=None))
    with pytest.raises(MethodError, match="same keys"):
        ResidualSinks()(replace(made_maps(), residual_sinks=np.zeros((1, 3), np.float32)))


def test_background_loses_its_own_residual_sinks():
    maps = with_background(made_maps())
    phi = np.zeros_like(maps.background.residual_sinks)
    phi[2, 2] = 30
    behind = replace(maps.background, residual_sinks=phi)
    result, _ = ResidualSinks(fill="zero")(replace(maps, background=behind))
    assert not cells(result.background)[:, 2, ..., 0, 0].any()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_filling_takes_the_mean_of_good_neighbours(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 2))
    values = rng.random((2, *shape)).astype(np.float32)
    mask = rng.random(shape) < 0.4
    filled = fill_cells(values, mask, "neighbours")
    for row, column in np.ndindex(*shape):
        if not mask[row, column]:
            np.testing.assert_array_equal(filled[:, row, column], values[:, row, column])
            continue
        around = [
            (r, c)
            for r in range(max(row - 1, 0), min(row + 2, shape[0]))
            for c in range(max(column - 1, 0), min(column + 2, shape[1]))
            if not mask[r, c]
        ]
        expected = np.mean([values[:, r, c] for r, c in around], axis=0) if around else np.zeros(2)
        np.testing.assert_allclose(filled[:, row, column], expected, rtol=1e-5)
    assert not fill_cells(values, mask, "zero")[:, mask].any()


@pytest.mark.parametrize("make", [lambda: ColumnOutliers(factor=0), lambda: ResidualSinks(tau=0)])
def test_numbers_without_meaning_are_refused(make):
    with pytest.raises(MethodError, match="sinks-"):
        make()
