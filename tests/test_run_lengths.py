from __future__ import annotations

import numpy as np
import pytest

from grounding.geometry import tight_box
from grounding.run_lengths import insides, join, overlaps, pack

MASKS = np.random.default_rng(0).random((4, 7, 5)) < np.array([0.2, 0.5, 0.8, 0.0])[:, None, None]


def test_packing_keeps_every_pixel_and_what_is_measured_of_them():
    for mask in MASKS:
        packed = pack(mask)
        np.testing.assert_array_equal(packed.mask, mask)
        assert packed.mask.dtype == np.bool_
        assert packed.area == mask.sum()
        assert packed.share == pytest.approx(mask.mean())
        assert packed.box_xyxy == tight_box(mask)


def test_overlaps_and_insides_are_those_of_the_pixels():
    packed = [pack(mask) for mask in MASKS]
    for row, one in enumerate(MASKS[:3]):
        for column, other in enumerate(MASKS[:3]):
            assert overlaps(packed)[row, column] == pytest.approx((one & other).sum() / (one | other).sum())
            assert insides(packed)[row, column] == pytest.approx((one & other).sum() / one.sum())
    assert overlaps(packed)[3, 3] == 0
    assert overlaps([]).shape == (0, 0)


def test_joining_is_the_union():
    np.testing.assert_array_equal(join([pack(mask) for mask in MASKS]).mask, MASKS.any(axis=0))
