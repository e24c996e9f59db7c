from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.geometry import cell_coverage, tight_box

SIDES = st.integers(1, 12)


def test_a_tight_box_excludes_its_end() -> None:
    mask = np.zeros((5, 8), bool)
    mask[1:3, 4] = True
    mask[2, 6] = True
    assert tight_box(mask) == (4.0, 1.0, 7.0, 3.0)
    assert tight_box(np.ones((5, 8), bool)) == (0.0, 0.0, 8.0, 5.0)
    assert tight_box(np.zeros((5, 8), bool)) == (0.0, 0.0, 0.0, 0.0)


def reference(mask: np.ndarray, shape: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """The same, cell by cell and pixel by pixel."""
    (h, w), (x0, y0, x1, y1) = shape, box
    found = np.zeros(shape)
    for i in range(h):
        for j in range(w):
            top, bottom = (y0 + (y1 - y0) * k / h for k in (i, i + 1))
            left, right = (x0 + (x1 - x0) * k / w for k in (j, j + 1))
            for y, x in np.argwhere(mask):
                across = max(0.0, min(right, x + 1) - max(left, x))
                down = max(0.0, min(bottom, y + 1) - max(top, y))
                found[i, j] += across * down / ((right - left) * (bottom - top))
    return found


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 99))
def test_coverage_keeps_the_mean(height: int, width: int, h: int, w: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    cells = cell_coverage(mask, (h, w))
    assert cells.shape == (h, w)
    assert cells.dtype == np.float32
    assert cells.mean() == pytest.approx(mask.mean(), abs=1e-5)
    assert cells.min() >= 0
    assert cells.max() <= 1 + 1e-5


def test_a_cell_across_two_pixels_gets_both_shares() -> None:
    np.testing.assert_allclose(cell_coverage(np.array([[True, False, False]]), (1, 2)), [[2 / 3, 0]], atol=1e-6)


def test_coverage_of_a_mirrored_mask_is_mirrored() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.5
    np.testing.assert_allclose(cell_coverage(mask[:, ::-1], (5, 7)), cell_coverage(mask, (5, 7))[:, ::-1], atol=1e-6)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 4))
def test_coverage_of_a_box_between_pixels_and_over_the_border(seed: int, h: int, w: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 6)) < 0.5
    x0, y0 = rng.uniform(-3, 4, 2)
    box = (float(x0), float(y0), float(x0 + rng.uniform(0.5, 7)), float(y0 + rng.uniform(0.5, 7)))
    np.testing.assert_allclose(cell_coverage(mask, (h, w), box), reference(mask, (h, w), box), atol=1e-5)


def test_outside_the_image_there_is_no_mask() -> None:
    np.testing.assert_allclose(cell_coverage(np.ones((4, 4), bool), (2, 2), (0, 0, 8, 8)), [[1, 0], [0, 0]])
