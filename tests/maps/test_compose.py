from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import cells, made_maps, one_row

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.compose import Compose
from grounding.types import AttentionMaps


def _several(parts, size) -> AttentionMaps:
    """Maps of one row over several grids, each given as (cells [h, w], box)."""
    values, grids, start = [], [], 0
    for part, box in parts:
        part = np.asarray(part, np.float32)
        grids.append(ImageGrid(np.arange(start, start + part.size), part.shape, box))
        values.append(part.ravel())
        start += part.size
    row = one_row([[0.0]])
    return replace(
        row,
        values=np.concatenate(values).reshape(1, 1, 1, 1, -1),
        keys=np.arange(start),
        grids=tuple(grids),
        image_size=size,
    )


def test_a_grid_over_the_whole_image_comes_out_cell_for_cell():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    heatmap = Compose(floor="zero")(one_row(values, size=(37, 91)))
    np.testing.assert_allclose(heatmap.values, values / 11, atol=1e-6)
    assert heatmap.image_size == (37, 91)


def test_what_is_left_of_steps_layers_heads_and_rows_is_averaged():
    maps = made_maps(steps=3)
    expected = cells(maps).mean((0, 1, 2, 3))
    np.testing.assert_allclose(Compose(floor="zero")(maps).values, expected / expected.max(), rtol=1e-5)


def test_floor_stretches_to_zero_and_one():
    heatmap = Compose()(one_row([[0.2, 0.3], [0.4, 0.6]]))
    np.testing.assert_allclose(heatmap.values, [[0, 0.25], [0.5, 1]], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_flat_map_is_empty_rather_than_noise(value):
    assert not Compose(upscale=3)(one_row(np.full((5, 7), value, np.float32))).values.any()


def test_upscaling_is_linear_between_centres_and_constant_beyond_them():
    heatmap = Compose(upscale=4, floor="zero")(one_row([[0.0, 1.0]]))
    np.testing.assert_allclose(heatmap.values[0], [0, 0, 1 / 7, 3 / 7, 5 / 7, 1, 1, 1][:8], atol=0.2)
    at = (np.arange(8) + 0.5) / 4 - 0.5  # in cells; centres at 0 and 1
    expected = np.clip(at, 0, 1)
    np.testing.assert_allclose(heatmap.values, np.broadcast_to(expected / expected.max(), (4, 8)), atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_mirrored_grids_give_the_mirrored_map(seed):
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(20, 200, 2))
    parts, mirrored, flipped = [], [], []
    for _ in range(rng.integers(1, 4)):
        shape = tuple(rng.integers(1, 7, 2))
        x0, y0 = rng.uniform(-10, width * 0.6), rng.uniform(-10, height * 0.6)
        x1, y1 = rng.uniform(x0 + 10, width + 10), rng.uniform(y0 + 10, height + 10)
        values = rng.random(shape)
        parts.append((values, (x0, y0, x1, y1)))
        mirrored.append((values[:, ::-1], (width - x1, y0, width - x0, y1)))
        flipped.append((values[::-1], (x0, height - y1, x1, height - y0)))
    compose = Compose(upscale=int(rng.integers(1, 4)), floor="zero", max_cells=64)
    straight = compose(_several(parts, (width, height))).values
    np.testing.assert_allclose(compose(_several(mirrored, (width, height))).values, straight[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(compose(_several(flipped, (width, height))).values, straight[::-1], atol=1e-5)


def test_what_no_grid_covers_is_zero_and_a_crop_lies_where_it_was_taken():
    crop = np.array([[1.0, 2.0], [3.0, 4.0]])
    heatmap = Compose()(_several([(crop, (20, 0, 40, 20))], (60, 20)))
    assert heatmap.values.shape == (2, 6)
    assert not heatmap.values[:, [0, 1, 4, 5]].any()
    np.testing.assert_allclose(heatmap.values[:, 2:4], [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


def test_padding_beyond_the_image_is_cut_off():
    padded = np.array([[9.0, 9.0], [1.0, 2.0], [3.0, 5.0], [9.0, 9.0]])
    heatmap = Compose(floor="zero")(_several([(padded, (0, -10, 20, 30))], (20, 20)))
    np.testing.assert_allclose(heatmap.values, [[0.2, 0.4], [0.6, 1.0]], atol=1e-6)


def test_overlapping_grids_are_averaged():
    whole, right = np.array([[1.0, 1.0]]), np.array([[3.0]])
    heatmap = Compose(floor="zero")(_several([(whole, (0, 0, 20, 10)), (right, (10, 0, 20, 10))], (20, 10)))
    np.testing.assert_allclose(heatmap.values, [[0.5, 1.0]], atol=1e-6)


def test_a_cell_that_is_half_covered_counts_half():
    # The second grid covers the last quarter of the image: half of the second output cell.
    parts = [([[1.0, 1.0]], (0, 0, 20, 10)), ([[4.0]], (15, 0, 25, 10))]
    heatmap = Compose(floor="zero")(_several(parts, (20, 10)))
    np.testing.assert_allclose(heatmap.values, [[0.5, 1.0]], atol=1e-6)  # (1 + 4 * 0.5) / 1.5 = 2


def test_thumbnail_and_tiles_agree_on_a_point():
    """A peak at one place of the image comes out at that place whatever grid saw it."""
    xx, yy = np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5)
    peak = np.exp(-((xx - 5.5) ** 2 + (yy - 2.5) ** 2))
    tiles = [
        (peak[r : r + 4, c : c + 4], (c * 10.0, r * 10.0, c * 10.0 + 40, r * 10.0 + 40)) for r in (0, 4) for c in (0, 4)
    ]
    thumb = peak.reshape(4, 2, 4, 2).mean((1, 3))
    heatmap = Compose()(_several([(thumb, (0, 0, 80, 80)), *tiles], (80, 80)))
    assert heatmap.values.shape == (8, 8)
    assert np.unravel_index(heatmap.values.argmax(), (8, 8)) == (2, 5)


def test_the_output_is_bounded():
    assert max(Compose(upscale=100, max_cells=64)(one_row(np.eye(5, 9))).values.shape) == 64


def test_maps_without_grids_are_refused():
    with pytest.raises(MethodError, match="no image cells"):
        Compose()(replace(one_row([[1.0]]), grids=()))
    with pytest.raises(MethodError, match="upscale"):
        Compose(upscale=0)


def _tiled(rng: np.random.Generator, values) -> list:
    """A grid over the whole image and two of its parts, with values of a function of the shape."""
    boxes = [(0, 0, 60, 40), (0, 0, 30, 40), (20, 10, 70, 50)]
    return [(values(tuple(rng.integers(1, 6, 2))), box) for box in boxes]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_map_is_linear_up_to_its_scale(seed):
    rng = np.random.default_rng(seed)
    one = _tiled(rng, lambda shape: rng.random(shape) + 0.1)
    other = [(rng.random(values.shape) + 0.1, box) for values, box in one]
    both = [(2 * a + b, box) for (a, box), (b, _) in zip(one, other, strict=True)]
    compose = Compose(upscale=2, floor="zero", max_cells=48)
    first, second, mixed = (compose(_several(parts, (60, 40))).values.ravel() for parts in (one, other, both))
    weights, _, _, _ = np.linalg.lstsq(np.stack([first, second], 1), mixed, rcond=None)
    np.testing.assert_allclose(np.stack([first, second], 1) @ weights, mixed, atol=1e-5)
    assert (weights > -1e-5).all()
    louder = compose(_several([(values * 7, box) for values, box in one], (60, 40))).values.ravel()
    np.testing.assert_allclose(louder, first, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_grids_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    parts = _tiled(rng, rng.random)
    compose = Compose(upscale=2, max_cells=48)
    straight = compose(_several(parts, (60, 40))).values
    for order in ([2, 0, 1], [1, 2, 0]):
        np.testing.assert_allclose(compose(_several([parts[i] for i in order], (60, 40))).values, straight, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_an_image_that_is_covered_has_no_hole_and_equal_cells_stay_equal(seed, upscale):
    rng = np.random.default_rng(seed)
    compose = Compose(upscale=upscale, floor="zero", max_cells=48)
    equal = compose(_several(_tiled(rng, lambda shape: np.full(shape, 0.3)), (60, 40))).values
    np.testing.assert_allclose(equal, 1, atol=1e-5)
    positive = compose(_several(_tiled(rng, lambda shape: rng.random(shape) + 0.01), (60, 40))).values
    assert positive.min() > 0
