from __future__ import annotations

import json

import pytest

from grounding.errors import ModelError, SegmenterError
from grounding.segmenters.load import load_segmenter


@pytest.mark.parametrize(
    "name", ["", "mobilesam", "sam2", "vit_b", "a/b/c", "https://example.org/sam.onnx", "./nowhere"]
)
def test_an_unknown_name_lists_the_known_forms(name):
    with pytest.raises(SegmenterError, match=r"known forms: mobile-sam; sam:vit_b:FILE"):
        load_segmenter(name, "cpu")


@pytest.mark.parametrize("name", ["sam:", "sam:vit_b", "sam:vit_b:", "sam:vit_x:/a.pth", "sam:/a.pth"])
def test_a_malformed_sam_name_says_the_form(name):
    with pytest.raises(SegmenterError, match="sam:VARIANT:FILE"):
        load_segmenter(name, "cpu")


@pytest.mark.parametrize("name", ["sam:vit_b:{}/missing.pth", "sam:vit_t:{}/missing.pt", "{}/sam_vit_h.pth"])
def test_a_missing_checkpoint_is_named(name, tmp_path):
    with pytest.raises(SegmenterError, match="there is no"):
        load_segmenter(name.format(tmp_path), "cpu")


def test_a_checkpoint_whose_name_says_nothing(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    with pytest.raises(SegmenterError, match=f"write sam:vit_b:{path}"):
        load_segmenter(str(path), "cpu")


def test_without_a_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SegmenterError, match=r"the hub .* cannot be reached"):
        load_segmenter("nobody-at-all/no-such-segmenter", "cpu")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SegmenterError, match=r"config\.json"):
        load_segmenter(str(tmp_path), "cpu")


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(SegmenterError, match="could not be loaded"):
        load_segmenter(str(tmp_path), "cpu")


def test_a_model_that_takes_no_points_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(SegmenterError, match=r"type 'clip'.*sam, sam2"):
        load_segmenter(str(tmp_path), "cpu")


def test_an_unknown_device_or_dtype_is_refused_first():
    with pytest.raises(ModelError, match="device"):
        load_segmenter("mobile-sam", "abacus")
    with pytest.raises(ModelError, match="dtype"):
        load_segmenter("mobile-sam", "cpu", "float8")
