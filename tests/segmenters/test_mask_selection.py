from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import SegmenterError
from grounding.segmenters.base import MaskCandidates
from grounding.segmenters.mask_selection import MaskRule, agreement, predict_mask, refine_masks, select_mask
from grounding.segmenters.specks import without_specks
from grounding.types import Heatmap


def heatmap(values, image_size=(40, 40)) -> Heatmap:
    return Heatmap(values=np.asarray(values, dtype=np.float32), image_size=image_size)


def box_mask(x0, y0, x1, y1, size=(40, 40)) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def candidates(*masks, scores) -> MaskCandidates:
    return MaskCandidates(np.stack(masks), np.array(scores, np.float32), np.zeros((len(masks), 8, 8), np.float32))


PART, OBJECT, WHOLE = box_mask(12, 12, 18, 18), box_mask(10, 10, 20, 20), box_mask(0, 0, 40, 40)
# Cells of 10 px; the object is exactly the cell in row 1, column 1.
HOT = heatmap([[0, 0.1, 0, 0], [0.1, 1, 0.2, 0], [0, 0.1, 0, 0], [0, 0, 0, 0]])


def test_iou_takes_the_segmenters_estimate():
    assert select_mask(candidates(PART, OBJECT, scores=[0.9, 0.8])) == 0


@pytest.mark.parametrize("measure", ["pearson", "soft_iou", "consistency"])
def test_agreement_overrules_the_estimate(measure):
    offered = candidates(PART, OBJECT, box_mask(20, 20, 40, 40), scores=[0.9, 0.5, 0.95])
    assert select_mask(offered, HOT, MaskRule("agreement", measure)) == 1


def test_both_needs_both():
    offered = candidates(PART, OBJECT, box_mask(20, 20, 40, 40), scores=[0.9, 0.0, 1.0])
    assert select_mask(offered, HOT, "both") == 0


def test_ties_fall_to_the_estimate():
    flat = heatmap(np.full((4, 4), 0.5))
    assert select_mask(candidates(PART, OBJECT, scores=[0.2, 0.8]), flat, "agreement") == 1


@pytest.mark.parametrize(("penalty", "expected"), [(0.0, 1), (0.5, 0), (1.0, 0)])
def test_a_mask_of_nearly_everything_pays_the_penalty(penalty, expected):
    offered = candidates(OBJECT, WHOLE, scores=[0.6, 0.95])
    assert select_mask(offered, rule=MaskRule("iou", whole_penalty=penalty)) == expected


def test_the_share_that_counts_as_everything_can_be_set():
    half = box_mask(0, 0, 40, 24)
    assert select_mask(candidates(OBJECT, half, scores=[0.6, 0.95])) == 1
    assert select_mask(candidates(OBJECT, half, scores=[0.6, 0.95]), rule=MaskRule("iou", whole_share=0.5)) == 0


def test_an_empty_mask_never_wins():
    empty = np.zeros((40, 40), dtype=bool)
    assert select_mask(candidates(empty, OBJECT, scores=[1.0, -0.5])) == 1


@pytest.mark.parametrize("rule", ["agreement", "both"])
def test_a_rule_without_its_map_is_refused(rule):
    with pytest.raises(SegmenterError, match="heat map"):
        select_mask(candidates(PART, scores=[1.0]), None, rule)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"choice": "area"}, "iou, agreement or both"),
        ({"measure": "dice"}, "pearson"),
        ({"whole_share": 2}, "shares in"),
    ],
)
def test_an_unknown_rule_names_the_known_ones(numbers, sentence):
    with pytest.raises(SegmenterError, match=sentence):
        MaskRule(**numbers)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("pearson", 1.0), ("soft_iou", 1.0), ("consistency", 1.0)],
)
def test_a_map_that_is_the_mask_agrees_fully(measure, expected):
    exact = np.zeros((4, 4))
    exact[1, 1] = 1
    assert agreement(OBJECT, heatmap(exact), measure) == pytest.approx(expected)


def test_agreement_by_hand():
    values = heatmap([[1.0, 0.5], [0.0, 0.5]])
    left = box_mask(0, 0, 20, 40)
    # the mask holds the cells 1 and 0, whose mean is the map's
    assert agreement(left, values, "pearson") == pytest.approx(0.0)
    assert agreement(left, values, "soft_iou") == pytest.approx(1.0 / 3.0)
    # above the mean lies the 1 alone; the other covered cell counts as -1
    assert agreement(left, values, "consistency") == pytest.approx(0.0)


@given(st.integers(0, 2**31), st.sampled_from([(40, 40), (13, 7), (9, 30)]))
def test_agreement_over_cells_is_agreement_over_pixels(seed, size):
    rng = np.random.default_rng(seed)
    cells = rng.random((3, 2)).astype(np.float32)
    mask = rng.random((size[1], size[0])) < rng.uniform(0.1, 0.9)
    fine = np.kron(cells, np.ones((size[1], size[0])))  # a common grid on which cells and pixels are both whole
    m = np.kron(mask, np.ones((3, 2)))
    pearson = np.corrcoef(m.ravel(), fine.ravel())[0, 1] if 0 < m.mean() < 1 else 0.0
    values = heatmap(cells, image_size=size)
    assert agreement(mask, values, "pearson") == pytest.approx(pearson, abs=1e-4)
    assert agreement(mask, values, "soft_iou") == pytest.approx(
        np.minimum(m, fine).sum() / np.maximum(m, fine).sum(), abs=1e-4
    )


@pytest.mark.parametrize("measure", ["pearson", "soft_iou", "consistency"])
def test_a_constant_or_empty_map_agrees_with_nothing_in_particular(measure):
    assert agreement(OBJECT, heatmap(np.zeros((3, 3))), measure) == 0.0


@pytest.fixture
def tiny(tiny_original, noise):
    import torch

    from grounding.segmenters.segment_anything import SegmentAnything

    segmenter = SegmentAnything(tiny_original, "tiny", torch.device("cpu"))
    segmenter.set_image(noise)
    return segmenter


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_the_cascade_is_three_calls_with_the_last_answer_as_hint(tiny, points, wanted, monkeypatch):
    # The segmenter's estimate is replaced by a fixed preference so that every index has its turn.
    monkeypatch.setattr("grounding.segmenters.mask_selection.select_mask", lambda *_: wanted)
    prompt = points((10, 20), (60, 10), labels=[1, 0])
    first = tiny.predict(prompt, multimask_output=False)
    second = tiny.predict(prompt, mask_input=first.low_res_logits[0])
    best = wanted
    rows, columns = second.masks[best].nonzero()
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    third = tiny.predict(points((10, 20), (60, 10), labels=[1, 0], box=box), mask_input=second.low_res_logits[best])
    refined = refine_masks(tiny, prompt)
    np.testing.assert_array_equal(refined.low_res_logits, third.low_res_logits)
    assert not np.allclose(refined.low_res_logits, tiny.predict(prompt).low_res_logits)


@pytest.mark.parametrize("cascade", [False, True])
def test_ask_gives_the_chosen_mask_with_its_agreement(tiny, points, cascade):
    prompt = points((10, 20))
    values = heatmap(np.random.default_rng(1).random((4, 6)), image_size=(75, 30))
    rule = MaskRule("agreement", whole_penalty=0.0, specks=0.0)
    segment = predict_mask(tiny, prompt, values, replace(rule, cascade=cascade), label="noise")
    offered = refine_masks(tiny, prompt, values, rule) if cascade else tiny.predict(prompt)
    agreements = [agreement(mask, values) for mask in offered.masks]
    assert segment.agreement == pytest.approx(max(agreements))
    assert segment.score == pytest.approx(float(offered.scores[int(np.argmax(agreements))]))
    assert segment.mask.shape == (30, 75)
    assert segment.label == "noise"
    assert segment.points is prompt


def test_ask_without_a_map_measures_no_agreement(tiny, points):
    assert predict_mask(tiny, points((10, 20))).agreement is None


def test_a_single_mask_can_be_the_rule(tiny, points):
    single = tiny.predict(points((10, 20)), multimask_output=False)
    segment = predict_mask(tiny, points((10, 20)), rule=MaskRule("iou", multimask=False, specks=0.0))
    np.testing.assert_array_equal(segment.mask, single.masks[0])


def test_the_chosen_mask_is_cleaned_before_its_agreement_is_measured(tiny, points):
    values = heatmap(np.random.default_rng(1).random((4, 6)), image_size=(75, 30))
    rough, clean = (
        predict_mask(tiny, points((10, 20)), values, MaskRule("iou", multimask=False, specks=share))
        for share in (0.0, 0.05)
    )
    np.testing.assert_array_equal(clean.mask, without_specks(rough.mask, 0.05))
    assert (clean.mask != rough.mask).any()
    assert clean.agreement == pytest.approx(agreement(clean.mask, values))


@pytest.mark.parametrize(
    "broken",
    [
        {"masks": np.zeros((1, 4, 4))},
        {"masks": np.zeros((2, 4, 4), bool)},
        {"scores": np.zeros(0, np.float32)},
        {"low_res_logits": np.zeros((1, 4), np.float32)},
    ],
)
def test_candidates_that_do_not_belong_together_are_refused(broken):
    whole = {
        "masks": np.zeros((1, 4, 4), bool),
        "scores": np.zeros(1, np.float32),
        "low_res_logits": np.zeros((1, 4, 4), np.float32),
    }
    with pytest.raises(ValueError, match=r"mask|logits"):
        MaskCandidates(**(whole | broken))
