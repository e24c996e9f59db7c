from __future__ import annotations

import numpy as np
import pytest

from grounding.errors import EmptyMapError, SegmenterError
from grounding.points import ArgMax, MaxMinPair
from grounding.segmenters.instance_suppression import suppress_segments
from grounding.segmenters.load import load_segmenter
from grounding.segmenters.mask_selection import MaskRule
from grounding.segmenters.peeling import Peeling, attention_inside, peel
from grounding.types import Heatmap, PointPrompts, Segment

SIZE = (64, 64)


@pytest.fixture(scope="module")
def segmenter(tiny_segmenter):
    from PIL import Image

    found = load_segmenter(str(tiny_segmenter), "cpu")
    found.set_image(Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)))
    return found


def two_peaks() -> Heatmap:
    values = np.zeros((16, 16), np.float32)
    values[2, 2], values[13, 12], values[8, 8] = 1.0, 0.8, 0.3
    return Heatmap(values, SIZE)


def test_a_round_ends_the_search_by_its_number_its_peak_or_a_mask_that_is_not_new(segmenter):
    rule = MaskRule(choice="iou")
    # The tiny SAM's masks are noise, so only the margin takes peaks off the map here.
    loose = dict(least_new=0.0, margin=0.0)
    found = peel(segmenter, two_peaks(), ArgMax(), rule, Peeling(rounds=1, least_peak=0.0, **loose))
    assert (len(found.segments), found.asked) == (1, 1)
    every = peel(segmenter, two_peaks(), ArgMax(), rule, Peeling(rounds=9, least_peak=0.0, **loose))
    high = peel(segmenter, two_peaks(), ArgMax(), rule, Peeling(rounds=9, least_peak=0.5, **loose))
    assert 1 <= high.asked <= every.asked <= 3
    first = high.segments[0].points.xy[0]
    assert first.tolist() == [10.0, 10.0]
    points = [tuple(one.points.xy[0].tolist()) for one in every.segments]
    assert len(set(points)) == len(points)  # a point is never asked again
    new = peel(segmenter, two_peaks(), ArgMax(), rule, Peeling(rounds=9, least_peak=0.0, least_new=1.0, margin=0.0))
    masks = [one.mask for one in new.segments]
    assert all(not (one & other).any() for at, one in enumerate(masks) for other in masks[:at])


def test_what_a_mask_explains_is_off_the_map_with_its_margin(segmenter):
    wide = Peeling(rounds=9, least_peak=0.0, least_new=0.0, margin=50.0)
    assert peel(segmenter, two_peaks(), ArgMax(), MaskRule(choice="iou"), wide).asked == 1


def test_an_empty_map_and_numbers_out_of_range_are_refused(segmenter):
    with pytest.raises(EmptyMapError):
        peel(segmenter, Heatmap(np.zeros((4, 4), np.float32), SIZE), MaxMinPair(), MaskRule())
    for wrong in ({"rounds": 0}, {"least_peak": 1.5}, {"least_new": -0.1}, {"margin": -1}):
        with pytest.raises(SegmenterError, match="were given, expected"):
            Peeling(**wrong)


def test_attention_inside_is_the_mean_of_the_covered_cells():
    mask = np.zeros((64, 64), bool)
    mask[8:12, 8:16] = True  # cells (2, 2) and (2, 3)
    assert attention_inside(mask, two_peaks()) == pytest.approx(0.5)
    assert attention_inside(np.zeros((64, 64), bool), two_peaks()) == 0.0


def segment(left: int, right: int) -> Segment:
    mask = np.zeros((20, 20), bool)
    mask[5:10, left:right] = True
    points = PointPrompts(np.array([[1.0, 1.0]], np.float32), np.array([1]), np.array([1.0], np.float32))
    return Segment(mask, 0.9, points)


def test_of_segments_that_overlap_the_best_stays():
    segments = [segment(0, 10), segment(1, 11), segment(12, 18)]
    scores = [0.5, 0.9, 0.1]
    assert suppress_segments(segments, scores, 0.5) == (1, 2)
    assert suppress_segments(segments, scores, 0.5, "box") == (1, 2)
    assert suppress_segments(segments, scores, 0.9) == (1, 0, 2)
    assert suppress_segments(segments, scores, 0.5, labels=["a", "b", "a"]) == (1, 0, 2)
    assert suppress_segments([], [], 0.5) == ()
    with pytest.raises(SegmenterError, match="expected an IoU"):
        suppress_segments(segments, scores, 2)


def test_boxes_may_overlap_where_masks_do_not():
    one, other = segment(0, 10), segment(0, 10)
    one.mask[::2] = False
    other.mask[1::2] = False
    assert suppress_segments([one, other], [0.5, 0.4], 0.5, "mask") == (0, 1)
    assert suppress_segments([one, other], [0.5, 0.4], 0.4, "box") == (0,)
