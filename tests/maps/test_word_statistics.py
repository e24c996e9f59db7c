from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import cells, made_maps

from grounding.maps.word_statistics import image_shares, spatial_variations


def test_shares_are_of_the_image_alone_and_sum_to_one():
    maps = made_maps()
    mass = cells(maps).mean((0, 1, 2)).sum((-2, -1))  # text columns are not the image's
    np.testing.assert_allclose(image_shares(maps), mass / mass.sum(), rtol=1e-5)
    assert image_shares(maps).sum() == pytest.approx(1, abs=1e-6)


def test_a_words_variation_is_zero_where_it_is_spread_evenly_and_scale_does_not_count():
    maps = made_maps()
    values = maps.values.copy()
    values[:, :, :, 0] = 0.01
    values[:, :, :, 1] *= 7
    found, before = spatial_variations(replace(maps, values=values)), spatial_variations(maps)
    assert found[0] == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(found[1:], before[1:], rtol=1e-4)
    row = cells(maps)[..., 2, :, :].mean((0, 1, 2))
    assert before[2] == pytest.approx(row.std() / row.mean(), rel=1e-4)


def test_no_attention_at_all_gives_zeros_instead_of_nan():
    maps = replace(made_maps(), values=np.zeros_like(made_maps().values))
    assert image_shares(maps).tolist() == spatial_variations(maps).tolist() == [0] * len(maps.words)
