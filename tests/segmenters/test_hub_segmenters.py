"""Every transformers backend against the model's own full forward pass and its own processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grounding.errors import ImageError, SegmenterError
from grounding.segmenters.load import load_segmenter
from grounding.segmenters.sam import SamSegmenter
from grounding.segmenters.sam2 import Sam2Segmenter
from grounding.segmenters.sam3_tracker import Sam3TrackerSegmenter

BACKENDS = {b.model_class: b for b in (SamSegmenter, Sam2Segmenter, Sam3TrackerSegmenter)}
CPU = torch.device("cpu")


@pytest.fixture
def segmenter(tiny_hub):
    name, model, image_processor, _ = tiny_hub
    return BACKENDS[name](model, image_processor, name, CPU)


def reference(tiny_hub, image, xy, labels, box=None):
    """Logits, masks and scores of one full forward pass on what the model's processor makes of prompts.

    The processors count pixel centres as whole numbers in the *input*, so our prompts are moved by half an input pixel.
    """
    name, model, _, processor = tiny_hub
    width, height = image.size
    scale = np.array([64 / width, 64 / width] if name == "SamModel" else [64 / width, 64 / height])
    if name == "SamModel":
        scale[1] = int(height * 64 / width + 0.5) / height
    moved = (np.array(xy, dtype=float) - 0.5 / scale).tolist()
    boxes = None if box is None else [[(np.array(box) - np.tile(0.5 / scale, 2)).tolist()]]
    inputs = processor(
        images=image, input_points=[[moved]], input_labels=[[list(labels)]], input_boxes=boxes, return_tensors="pt"
    )
    sizes = [inputs.pop("original_sizes")] + ([inputs.pop("reshaped_input_sizes")] if name == "SamModel" else [])
    inputs["input_points"] = inputs["input_points"].float()
    if boxes is not None:
        inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        output = model(**inputs, multimask_output=True)
    masks = processor.image_processor.post_process_masks(output.pred_masks, *sizes)
    return output.pred_masks[0, 0].numpy(), masks[0][0].numpy(), output.iou_scores[0, 0].numpy()


@pytest.mark.parametrize(
    ("xy", "labels", "box"),
    [
        ([(10.0, 20.0)], [1], None),
        ([(70.5, 3.5), (20.25, 28.0), (1.0, 1.0)], [1, 0, 0], None),
        ([(40.0, 12.0)], [1], (5.0, 2.0, 60.0, 29.0)),
    ],
)
def test_reused_embedding_equals_the_full_forward_pass(tiny_hub, segmenter, noise, points, xy, labels, box):
    segmenter.set_image(noise)
    found = segmenter.predict(points(*xy, labels=labels, box=box))
    logits, masks, scores = reference(tiny_hub, noise, xy, labels, box)
    np.testing.assert_allclose(found.low_res_logits, np.clip(logits, -32, 32), atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert found.masks.shape == (3, 30, 75)
    assert (found.masks != masks).mean() < 1e-3  # a logit of rounding size may change sides
    assert 0 < found.masks.mean() < 1


def test_an_image_is_encoded_once_for_many_prompts(tiny_hub, segmenter, noise, points):
    calls = []
    tiny_hub[1].vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    segmenter.set_image(noise)
    first = segmenter.predict(points((10, 20)))
    second = segmenter.predict(points((70, 5)))
    again = segmenter.predict(points((10, 20)))
    assert len(calls) == 1
    assert not np.allclose(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.low_res_logits, again.low_res_logits)


def test_a_new_image_replaces_the_old_one(segmenter, noise, points):
    segmenter.set_image(noise)
    before = segmenter.predict(points((10, 20)))
    segmenter.set_image(noise.transpose(0).resize((40, 50)))
    after = segmenter.predict(points((10, 20)))
    assert after.masks.shape == (3, 50, 40)
    assert not np.allclose(before.low_res_logits, after.low_res_logits)


def test_a_box_alone_is_a_prompt(segmenter, noise, points):
    segmenter.set_image(noise)
    small = segmenter.predict(points(box=(5, 5, 20, 20)))
    large = segmenter.predict(points(box=(5, 5, 70, 28)))
    assert not np.allclose(small.low_res_logits, large.low_res_logits)


def test_logits_fed_back_change_the_answer_and_keep_their_frame(segmenter, noise, points):
    segmenter.set_image(noise)
    first = segmenter.predict(points((10, 20)))
    second = segmenter.predict(points((10, 20)), mask_input=first.low_res_logits[1])
    assert second.low_res_logits.shape == first.low_res_logits.shape
    other = segmenter.predict(points((10, 20)), mask_input=first.low_res_logits[0])
    assert not np.allclose(first.low_res_logits, second.low_res_logits)
    assert not np.allclose(other.low_res_logits, second.low_res_logits)
    with pytest.raises(ValueError, match="mask_input"):
        segmenter.predict(points((10, 20)), mask_input=first.low_res_logits)


def test_logits_to_feed_back_stay_in_the_range_of_training(tiny_hub, segmenter, noise, points):
    name, model, _, _ = tiny_hub
    with torch.no_grad():
        for network in model.mask_decoder.output_hypernetworks_mlps:
            network.proj_out.weight.mul_(1e4)
    segmenter.set_image(noise)
    largest = np.abs(segmenter.predict(points((10, 20))).low_res_logits).max()
    assert largest > 100 if name == "SamModel" else largest == 32


def test_a_single_mask_can_be_asked_for(segmenter, noise, points):
    segmenter.set_image(noise)
    assert segmenter.predict(points((10, 20)), multimask_output=False).masks.shape == (1, 30, 75)


def test_asked_before_it_has_an_image(segmenter, points):
    with pytest.raises(SegmenterError, match="call set_image first"):
        segmenter.predict(points((1, 1)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode_is_read_as_rgb(segmenter, noise, points, mode):
    segmenter.set_image(noise.convert(mode))
    assert segmenter.predict(points((10, 20))).masks.shape == (3, 30, 75)


def test_a_thread_like_image_is_refused(segmenter, noise):
    with pytest.raises(ImageError, match="crop the image"):
        segmenter.set_image(noise.resize((2500, 2)))


def test_out_of_memory_is_a_sentence_and_leaves_no_old_image(tiny_hub, segmenter, noise, points):
    segmenter.set_image(noise)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    tiny_hub[1].vision_encoder.register_forward_pre_hook(full)
    with pytest.raises(SegmenterError, match=r"out of memory while running segmenter .* on cpu"):
        segmenter.set_image(noise)
    with pytest.raises(SegmenterError, match="call set_image first"):
        segmenter.predict(points((1, 1)))


def test_half_precision_touches_the_encoder_alone(tiny_hub, segmenter, noise, points):
    name, model, image_processor, _ = tiny_hub
    half = BACKENDS[name](model, image_processor, name, CPU, torch.bfloat16)
    segmenter.set_image(noise)
    half.set_image(noise)
    full_scores, half_scores = (s.predict(points((10, 20))).scores for s in (segmenter, half))
    assert not np.array_equal(full_scores, half_scores)
    assert half_scores.dtype == np.float32
    np.testing.assert_allclose(full_scores, half_scores, rtol=0.2, atol=0.2)


def test_loads_from_a_folder(tiny_hub, segmenter, noise, points, tmp_path):
    name, model, image_processor, _ = tiny_hub
    model.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    loaded = load_segmenter(str(tmp_path), "cpu")
    assert isinstance(loaded, BACKENDS[name])
    for each in (segmenter, loaded):
        each.set_image(noise)
    np.testing.assert_allclose(
        segmenter.predict(points((10, 20))).low_res_logits, loaded.predict(points((10, 20))).low_res_logits, atol=1e-4
    )
