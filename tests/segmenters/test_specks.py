"""Small islands and holes go; everything else of a mask stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from grounding.errors import SegmenterError
from grounding.segmenters.mask_selection import MaskRule
from grounding.segmenters.specks import without_specks


def disc() -> np.ndarray:
    """A mask of 60 x 80 with a thing of 30 x 40, a dotted carpet beside it and pinholes in it."""
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    return mask


def test_a_dotted_carpet_and_pinholes_go():
    clean = disc()
    mask = clean.copy()
    mask[45:58:3, 5:75:3] = True
    mask[12:38:4, 22:58:4] = False
    np.testing.assert_array_equal(without_specks(mask, 0.01), clean)
    np.testing.assert_array_equal(without_specks(mask, 0.0), mask)


def test_a_second_thing_and_the_inside_of_a_ring_stay():
    mask = disc()
    mask[20:30, 35:45] = False  # 100 of 1,100 pixels
    mask[45:55, 5:15] = True
    np.testing.assert_array_equal(without_specks(mask, 0.05), mask)
    assert without_specks(mask, 0.2).sum() == disc().sum()


def test_the_largest_island_stays_however_small():
    dots = np.zeros((20, 20), bool)
    dots[::4, ::4] = True
    dots[1, 0] = True
    found = without_specks(dots, 1.0)
    assert found[0, 0]
    assert found[1, 0]
    assert found.sum() == 2


def test_empty_and_full_masks_stay():
    for value in (False, True):
        mask = np.full((9, 9), value)
        np.testing.assert_array_equal(without_specks(mask, 0.5), mask)


@given(mask=arrays(bool, (12, 14)), share=st.sampled_from([0.0, 0.05, 0.2, 0.5]))
def test_what_is_left_has_no_speck(mask, share):
    found = without_specks(mask, share)
    assert found.any() == mask.any()
    np.testing.assert_array_equal(without_specks(found, 0.0), found)
    parts, count = ndimage.label(found, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    assert count <= 1 or sizes.min() >= share * mask.sum()


def test_the_share_is_a_field_of_the_mask_rule():
    with pytest.raises(SegmenterError, match="shares in"):
        MaskRule(specks=1.5)
