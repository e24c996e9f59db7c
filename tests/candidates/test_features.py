from __future__ import annotations

import numpy as np
import pytest
from made_candidates import SIZE, map_on, rectangle

from grounding.candidates.base import Candidate, box_prompt
from grounding.candidates.features import FEATURES, measure
from grounding.run_lengths import pack
from grounding.segmenters.mask_selection import agreement
from grounding.types import Heatmap


def features(masks, heatmap, estimates=None):
    prompt = box_prompt((0, 0, 1, 1))
    pairs = zip(masks, estimates or [0.9] * len(masks), strict=True)
    table = measure([Candidate(mask, estimate, prompt, "made", 0.75) for mask, estimate in pairs], heatmap)
    return [dict(zip(FEATURES, row, strict=True)) for row in table.tolist()]


def test_every_feature_is_what_a_count_of_pixels_gives():
    heatmap, mask = map_on(10, 10, 30, 30, off=0.25), rectangle(0, 5, 20, 25)
    pixels = np.kron(heatmap.values, np.ones((5, 5)))
    on = mask.mask
    (found,) = features([mask], heatmap, [1.2])
    assert found["agreement"] == pytest.approx(np.corrcoef(on.ravel(), pixels.ravel())[0, 1], abs=1e-5)
    assert found["agreement"] == pytest.approx(agreement(on, heatmap), abs=1e-6)
    assert found["contrast"] == pytest.approx(pixels[on].mean() - pixels[~on].mean(), abs=1e-5)
    assert found["mass"] == pytest.approx(pixels[on].sum() / pixels.sum(), abs=1e-5)
    assert found["concentration"] == pytest.approx(np.log2(found["mass"] / on.mean()), abs=1e-4)
    soft = np.minimum(on, pixels).sum() / np.maximum(on, pixels).sum()
    assert found["soft_iou"] == pytest.approx(soft, abs=1e-5)
    assert found["estimate"] == 1.0  # an estimate above 1 is cut
    assert found["size"] == pytest.approx(np.log2(on.mean()), abs=1e-5)
    assert found["size_squared"] == pytest.approx(np.log2(on.mean()) ** 2, abs=1e-4)
    assert (found["stability"], found["fill"], found["connected"]) == (0.75, 1.0, 1.0)
    assert found["edge"] == pytest.approx((on.sum() - on[1:-1, 1:-1].sum()) / (on.size - on[1:-1, 1:-1].size))
    assert found["border"] == 0.25


def test_consensus_is_the_mean_iou_with_the_others():
    masks = [rectangle(0, 0, 20, 20), rectangle(0, 0, 20, 10), rectangle(40, 20, 60, 40)]
    found = features(masks, map_on(0, 0, 20, 20))
    assert [one["consensus"] for one in found] == pytest.approx([0.25, 0.25, 0])
    assert features(masks[:1], map_on(0, 0, 20, 20))[0]["consensus"] == 0


def test_a_whole_holds_its_parts_and_a_part_is_held():
    masks = [rectangle(0, 0, 20, 20), rectangle(0, 0, 20, 10), rectangle(0, 0, 10, 20), rectangle(40, 20, 60, 40)]
    found = features(masks, map_on(0, 0, 20, 20))
    assert [one["holds"] for one in found] == pytest.approx([2 / 3, 0, 0, 0])
    assert [one["held"] for one in found] == pytest.approx([0, 1 / 3, 1 / 3, 0])


def test_the_largest_connected_part_of_a_mask_also_of_a_large_picture():
    mask = rectangle(0, 0, 30, 20).mask | rectangle(40, 0, 50, 20).mask
    (found,) = features([pack(mask)], map_on(0, 0, 20, 20))
    assert found["connected"] == pytest.approx(0.75)
    (found,) = features([pack(np.kron(mask, np.ones((20, 20), bool)))], map_on(0, 0, 20, 20))
    assert found["connected"] == pytest.approx(0.75, abs=0.01)
    speck = np.zeros((800, 1200), bool)
    speck[1, 1] = True
    (found,) = features([pack(speck)], map_on(0, 0, 20, 20))
    assert found["connected"] == 1


def test_the_peak_is_on_the_mask_or_not():
    values = np.zeros((8, 12), np.float32)
    values[0, 0] = 1
    found = features([rectangle(0, 0, 5, 5), rectangle(0, 0, 60, 1), rectangle(30, 20, 60, 40)], Heatmap(values, SIZE))
    assert [one["peak"] for one in found] == pytest.approx([1, 0.2, 0])


def test_a_mask_of_everything_and_an_even_map_are_no_division_by_zero():
    even = Heatmap(np.ones((8, 12), np.float32), SIZE)
    (found,) = features([rectangle(0, 0, *SIZE)], even)
    assert all(np.isfinite(list(found.values())))
    assert (found["agreement"], found["contrast"], found["concentration"]) == (0, 1, 0)
