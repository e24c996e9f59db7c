"""The `segment-anything` backend against the package's own predictor, and its checkpoints from disk."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import segment_anything
import torch

from grounding.errors import SegmenterError
from grounding.segmenters.load import load_segmenter
from grounding.segmenters.segment_anything import SegmentAnything

CPU = torch.device("cpu")


@pytest.fixture
def segmenter(tiny_original):
    return SegmentAnything(tiny_original, "tiny", CPU)


@pytest.fixture
def small_registry(monkeypatch, tiny_original_builder):
    """The package's registry with a builder of tiny size for vit_b."""
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", tiny_original_builder)


@pytest.mark.parametrize(
    ("xy", "labels", "box"),
    [
        ([(10.0, 20.0)], [1], None),
        ([(70.5, 3.5), (20.25, 28.0)], [1, 0], None),
        ([(40.0, 12.0)], [1], (5.0, 2.0, 60.0, 29.0)),
        ([], [], (5.0, 2.0, 60.0, 29.0)),
    ],
)
def test_equals_the_packages_own_predictor(segmenter, tiny_original, noise, points, xy, labels, box):
    segmenter.set_image(noise)
    found = segmenter.predict(points(*xy, labels=labels, box=box))
    predictor = segment_anything.SamPredictor(tiny_original)
    predictor.set_image(np.asarray(noise))
    half = 0.5 / np.array([64 / 75, 26 / 30])  # half an input pixel; 30 px high becomes 25.6, rounded to 26
    masks, scores, logits = predictor.predict(
        point_coords=np.array(xy) - half if xy else None,
        point_labels=np.array(labels) if xy else None,
        box=None if box is None else np.array(box) - np.tile(half, 2),
    )
    np.testing.assert_allclose(found.low_res_logits, logits, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert (found.masks != masks).mean() < 1e-3
    assert 0 < found.masks.mean() < 1


def test_logits_fed_back_equal_the_predictors(segmenter, tiny_original, noise, points):
    segmenter.set_image(noise)
    first = segmenter.predict(points(box=(5, 2, 60, 29)), multimask_output=False)
    second = segmenter.predict(points(box=(5, 2, 60, 29)), mask_input=first.low_res_logits[0])
    predictor = segment_anything.SamPredictor(tiny_original)
    predictor.set_image(np.asarray(noise))
    box = np.array((5, 2, 60, 29)) - np.tile(0.5 / np.array([64 / 75, 26 / 30]), 2)
    _, _, logits = predictor.predict(box=box, mask_input=first.low_res_logits)
    np.testing.assert_allclose(second.low_res_logits, logits, atol=1e-4)


def test_an_image_is_encoded_once(segmenter, tiny_original, noise, points):
    calls = []
    tiny_original.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    segmenter.set_image(noise)
    for x in (5, 30, 60):
        segmenter.predict(points((x, 10)))
    assert len(calls) == 1


def test_asked_before_it_has_an_image(segmenter, points):
    with pytest.raises(SegmenterError, match="call set_image first"):
        segmenter.predict(points((1, 1)))


def test_out_of_memory_is_a_sentence(segmenter, tiny_original, noise):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    tiny_original.image_encoder.register_forward_pre_hook(full)
    with pytest.raises(SegmenterError, match=r"out of memory while running segmenter .* on cpu"):
        segmenter.set_image(noise)


@pytest.mark.parametrize("form", ["sam:vit_b:{}", "{}"])
@pytest.mark.usefixtures("small_registry")
def test_loads_a_checkpoint_by_path(form, tiny_original, segmenter, noise, points, tmp_path):
    path = tmp_path / "sam_vit_b_tiny.pth"
    torch.save({name: value + 0.01 for name, value in tiny_original.state_dict().items()}, path)
    tiny_original.load_state_dict(torch.load(path, weights_only=True))
    loaded = load_segmenter(form.format(path), "cpu")
    for each in (segmenter, loaded):
        each.set_image(noise)
    np.testing.assert_array_equal(
        segmenter.predict(points((9, 9))).low_res_logits, loaded.predict(points((9, 9))).low_res_logits
    )


@pytest.mark.usefixtures("small_registry")
def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "sam_vit_b.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(SegmenterError, match=r"do not fit.*sam:vit_l"):
        load_segmenter(str(path), "cpu")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1}), b"PK\x03\x04cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "sam_vit_b.pth"
    path.write_bytes(content)
    with pytest.raises(SegmenterError, match=r"sam_vit_b\.pth"):
        load_segmenter(str(path), "cpu")


def test_code_inside_a_checkpoint_does_not_run(tmp_path):
    path, trace = tmp_path / "sam_vit_b.pth", tmp_path / "trace"

    class Payload:
        def __reduce__(self):
            return open, (str(trace), "w")

    torch.save({"weight": Payload()}, path)
    with pytest.raises(SegmenterError, match="safely"):
        load_segmenter(str(path), "cpu")
    assert not trace.exists()
