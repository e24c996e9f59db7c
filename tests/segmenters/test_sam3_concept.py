"""The detector of SAM 3 at tiny size against its own full forward pass, and as a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_sam import SIDE

from grounding.errors import SegmenterError
from grounding.segmenters.sam3_concept import Sam3Concepts
from grounding.text.tiny import byte_tokenizer

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_layers": 1}


@pytest.fixture(scope="module")
def parts():
    """A model of the real class with random weights, and its processor."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(("<s>", "</s>"), bos="<s>", eos="</s>", pad="</s>")
    tokenizer.padding_side = "right"
    config = transformers.Sam3Config(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 16,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": SIDE,
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "projection_dim": 16,
            "eos_token_id": tokenizer.eos_token_id,
        },
        geometry_encoder_config=SMALL,
        detr_encoder_config=SMALL,
        detr_decoder_config=SMALL | {"num_queries": 8},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )
    model = transformers.Sam3Model(config).eval()
    processor = transformers.Sam3Processor(
        transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer
    )
    return model, processor


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
