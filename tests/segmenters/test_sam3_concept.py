"""The detector of SAM 3 at tiny size against its own full forward pass, and as a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam import tiny_sam3

from grounding.errors import SegmenterError
from grounding.segmenters.sam3_concept import Sam3Concepts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    """A model of the real class with random weights, and its processor."""
    return tiny_sam3()


@pytest.fixture
def concepts(parts):
    return Sam3Concepts(*parts, "tiny", CPU)


def test_instances_are_those_of_the_full_forward_pass(parts, concepts, noise):
    model, processor = parts
    inputs = processor(images=noise, text="dog", return_tensors="pt")
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        output = model(**inputs)
    expected = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=sizes.tolist())[0]
    concepts.set_image(noise)
    found = concepts.instances("dog", least_score=0.0)
    order = np.argsort(-expected["scores"].numpy(), kind="stable")
    order = [index for index in order if expected["masks"][index].any()]
    assert len(found) == len(order) > 1
    np.testing.assert_allclose([one.score for one in found], expected["scores"].numpy()[order], atol=1e-6)
    for one, index in zip(found, order, strict=True):
        assert one.mask.shape == (30, 75)
        assert (one.mask != (expected["masks"][index].numpy() > 0)).mean() < 1e-2
        np.testing.assert_allclose(one.box_xyxy, expected["boxes"][index].numpy(), atol=1e-3)


def test_a_picture_is_encoded_once_and_a_noun_once(parts, concepts, noise):
    calls = {"picture": 0, "noun": 0}
    model = parts[0]
    hooks = [
        model.vision_encoder.register_forward_hook(lambda *_: calls.update(picture=calls["picture"] + 1)),
        model.text_encoder.register_forward_hook(lambda *_: calls.update(noun=calls["noun"] + 1)),
    ]
    concepts.set_image(noise)
    first = concepts.instances("dog", 0.0)
    concepts.instances("red dog", 0.0)
    again = concepts.instances("dog", 0.0)
    for hook in hooks:
        hook.remove()
    assert calls == {"picture": 1, "noun": 2}
    assert first == again


def test_a_high_bar_leaves_none(concepts, noise):
    concepts.set_image(noise)
    assert concepts.instances("dog", least_score=1.0) == ()


def test_a_long_phrase_is_cut_to_what_the_model_reads(concepts, noise):
    concepts.set_image(noise)
    concepts.instances("dog " * 100, 0.0)


def test_without_an_image_it_says_what_to_do(concepts):
    with pytest.raises(SegmenterError, match="set_image"):
        concepts.instances("dog")


def test_it_loads_by_folder_and_refuses_another_model(parts, concepts, noise, tmp_path, tiny_segmenter):
    for part in parts:
        part.save_pretrained(tmp_path)
    loaded = Sam3Concepts.load(str(tmp_path), CPU, torch.float32)
    image = Image.new("RGB", (20, 10), (200, 30, 30))
    for one in (loaded, concepts):
        one.set_image(image)
    assert [a.score for a in loaded.instances("dog", 0.0)] == pytest.approx(
        [b.score for b in concepts.instances("dog", 0.0)], abs=1e-5
    )
    with pytest.raises(SegmenterError, match="type 'sam', which finds no nouns"):
        Sam3Concepts.load(str(tiny_segmenter), CPU, torch.float32)
