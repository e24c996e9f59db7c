from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.types import Heatmap, PointPrompts, Segment
from pipelines.views import views_of


def test_the_quarters_make_up_the_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    whole, *quarters = views_of(Image.fromarray(pixels), True)
    assert whole.is_whole
    assert len(quarters) == 4
    again = np.zeros_like(pixels)
    for view in quarters:
        left, top, right, bottom = view.box
        again[top:bottom, left:right] = np.asarray(view.image)
    np.testing.assert_array_equal(again, pixels)
    assert len(views_of(Image.new("RGB", (3, 40)), True)) == 1
    assert len(views_of(Image.fromarray(pixels), False)) == 1


def test_a_segment_of_a_quarter_lies_where_the_quarter_does():
    *_, last = views_of(Image.new("RGB", (40, 30)), True)
    mask = np.zeros((15, 20), bool)
    mask[2:5, 3:9] = True
    points = PointPrompts(
        np.array([[4.5, 3.5]], np.float32), np.array([1]), np.array([1.0], np.float32), (3.0, 2.0, 9.0, 5.0)
    )
    moved = last.in_picture(Segment(mask, 0.5, points))
    assert moved.mask.shape == (30, 40)
    assert moved.box_xyxy == (23, 17, 29, 20)
    assert moved.points.xy.tolist() == [[24.5, 18.5]]
    assert moved.points.box_xyxy == (23.0, 17.0, 29.0, 20.0)


@pytest.mark.parametrize("size", [(40, 40), (41, 39)])
def test_a_map_of_a_quarter_lies_there_too(size):
    values = np.arange(1, 17, dtype=np.float32).reshape(4, 4) / 16
    for view in views_of(Image.new("RGB", size), True)[1:]:
        heatmap = view.map_in_picture(Heatmap(values, view.image.size))
        assert heatmap.image_size == size
        top, left = (0 if at == 0 else 4 for at in (view.box[1], view.box[0]))
        np.testing.assert_array_equal(heatmap.values[top : top + 4, left : left + 4], values)
        assert heatmap.values.sum() == pytest.approx(values.sum())
