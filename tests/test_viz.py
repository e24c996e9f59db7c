from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.types import Heatmap, PointPrompts, Segment
from grounding.viz import NEGATIVE, POSITIVE, blend_map, blend_mask, draw_points, fit, font, overlay


def _points(box=None) -> PointPrompts:
    return PointPrompts(np.array([[30, 20], [90, 60]], np.float32), np.array([1, 0]), np.ones(2, np.float32), box)


def _segment(size=(120, 80)) -> Segment:
    mask = np.zeros((size[1], size[0]), bool)
    mask[10:30, 15:45] = True
    return Segment(mask, 0.9, _points(), "a star", 0.7)


def _map(size=(120, 80)) -> Heatmap:
    values = np.zeros((8, 12), np.float32)
    values[2, 3] = 1
    return Heatmap(values, size)


def _grey(size=(120, 80)) -> Image.Image:
    return Image.new("RGB", size, (128, 128, 128))


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (2, 2), (3, 700), (1500, 900)])
@pytest.mark.parametrize("title", ["", "the star", "the very " * 60 + "star", "the\nred\u2029star\x85 at\x1cnight"])
def test_a_strip_has_three_panels_of_the_pictures_shape(size, title):
    mask = np.zeros((size[1], size[0]), bool)
    mask[0, 0] = True
    segment = Segment(mask, 0.9, _points())
    strip = overlay(_grey(size), _map(size), segment, title, side=96)
    width = max(1, round(size[0] * 96 / max(size)))
    assert strip.mode == "RGB"
    assert strip.width == 16 + 3 * (max(width, 220) + 16)  # so that captions have room below narrow pictures
    assert strip.height >= round(size[1] * 96 / max(size))


def test_no_mask_and_several_masks_can_be_drawn():
    none = overlay(_grey(), _map(), side=96)
    one = overlay(_grey(), _map(), _segment(), side=96)
    two = overlay(_grey(), _map(), [_segment(), _segment()], side=96)
    assert none.width == one.width == two.width
    assert none.tobytes() != one.tobytes()


def test_points_are_drawn_where_they_are():
    image = _grey((480, 320))
    draw_points(image, _points(), (4.0, 4.0))
    pixels = np.asarray(image).astype(int)
    for (x, y), colour in (((120, 80), POSITIVE), ((360, 240), NEGATIVE)):
        assert pixels[y, x].min() > 240  # the middle of the sign
        assert pixels[y, x + 4].min() > 240  # its arm to the side
        assert np.abs(pixels[y + 5, x + 5] - colour).max() < 10  # the disc between the arms
    assert pixels[84, 120].min() > 240  # a plus has an arm downwards
    assert np.abs(pixels[245, 360] - NEGATIVE).max() < 10  # a minus has none
    assert (pixels[300, 20] == 128).all()


def test_points_follow_the_panels_scale():
    image = _grey((240, 160))
    draw_points(image, _points(box=(10, 10, 60, 40)), (2.0, 2.0))
    pixels = np.asarray(image).astype(int)
    assert pixels[40, 60].min() > 200
    assert (pixels[20, 20:120] != 128).any(axis=1).all()
    assert (pixels[100, 20:120] == 128).all()


def test_the_map_is_warm_where_it_is_large():
    panel = np.asarray(blend_map(_grey(), _map())).astype(int)
    y, x = 25, 35
    assert panel[y, x, 0] > panel[y, x, 2]
    mirrored = Heatmap(_map().values[:, ::-1].copy(), (120, 80))
    np.testing.assert_allclose(np.asarray(blend_map(_grey(), mirrored)).astype(int), panel[:, ::-1], atol=1)


def test_the_mask_is_tinted_and_the_rest_is_not():
    panel = np.asarray(blend_mask(_grey((480, 320)), _segment().mask, (255, 0, 0))).astype(int)
    assert panel[80, 120, 0] > panel[80, 120, 1] + 60
    assert np.ptp(panel[240, 360]) == 0
    edge = panel[80, 172:192]  # the mask ends at 45 * 4 = 180
    assert (edge.min(axis=1) > 150).any()  # a white rim
    assert (edge[:, 0] - edge[:, 1] > 150).any()  # around a line in the mask's colour
    assert np.ptp(panel[80, 190]) == 0


def test_empty_map_and_empty_mask():
    empty = Heatmap(np.zeros((4, 4), np.float32), (120, 80))
    blank = Segment(np.zeros((80, 120), bool), 0.0, _points())
    assert overlay(_grey(), empty, blank, "nothing", side=64).mode == "RGB"


@pytest.mark.parametrize("end", "\n\r\x1c\x1d\x1e\x85\u2029")
@pytest.mark.parametrize("width", [400, 40])
def test_a_text_of_several_lines_is_drawn_in_one(end, width):
    assert fit(f"a red{end}star{end}", font(14), width) == fit("a red star ", font(14), width)
