"""The real classes of every backend at tiny size with random weights, and pictures to point at."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageDraw
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from tiny_sam import DECODER, SIDE, sam_config, sam_image_processor

from grounding.segmenters.sam import SamSegmenter
from grounding.segmenters.sam2 import Sam2Segmenter
from grounding.segmenters.sam3_tracker import Sam3TrackerSegmenter
from grounding.segmenters.segment_anything import SegmentAnything
from grounding.types import PointPrompts

CPU = torch.device("cpu")
BACKENDS = {b.model_class: b for b in (SamSegmenter, Sam2Segmenter, Sam3TrackerSegmenter)}


def _tiny_sam():
    processor = sam_image_processor()
    return transformers.SamModel(sam_config()), processor, transformers.SamProcessor(processor)


def _tiny_sam2():
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 1, 1],
                "window_size_per_stage": [4, 4, 2, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config=DECODER,
    )
    processor = transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Sam2Model(config), processor, transformers.Sam2Processor(processor)


def _tiny_sam3_tracker():
    config = transformers.Sam3TrackerConfig(
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
            "scale_factors": [4.0, 2.0, 1.0],
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 16},
        mask_decoder_config=DECODER,
    )
    processor = transformers.Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    return transformers.Sam3TrackerModel(config), processor, transformers.Sam3TrackerProcessor(processor)


TINY = {"SamModel": _tiny_sam, "Sam2Model": _tiny_sam2, "Sam3TrackerModel": _tiny_sam3_tracker}


def _spread_out(model):
    """Random weights large enough that a mask depends visibly on the prompt."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(params=sorted(TINY))
def tiny_hub(request):
    """(model, image processor, processor) of each transformers backend, with its class name on `.name`."""
    torch.manual_seed(0)
    model, image_processor, processor = TINY[request.param]()
    return request.param, _spread_out(model).eval(), image_processor, processor


def build_tiny_original() -> Sam:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(SIDE, SIDE), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=16, transformer=TwoWayTransformer(depth=2, embedding_dim=16, num_heads=2, mlp_dim=32)
    )
    return _spread_out(Sam(encoder, prompts, decoder)).eval()


@pytest.fixture
def tiny_original() -> Sam:
    """Segment Anything of the package `segment-anything`."""
    return build_tiny_original()


@pytest.fixture
def tiny_original_builder():
    return build_tiny_original


@pytest.fixture(params=[*sorted(TINY), "segment-anything"])
def any_segmenter(request):
    """A segmenter of every backend, without an image."""
    if request.param == "segment-anything":
        return SegmentAnything(build_tiny_original(), request.param, CPU)
    torch.manual_seed(0)
    model, image_processor, _ = TINY[request.param]()
    return BACKENDS[request.param](_spread_out(model).eval(), image_processor, request.param, CPU)


@pytest.fixture(scope="session")
def noise() -> Image.Image:
    """A picture twice and a half as wide as high, 75 x 30 px."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 75, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def disc_and_square():
    """(image, mask of the disc, mask of the square), 300 x 200 px."""
    image = Image.new("RGB", (300, 200), (200, 190, 170))
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 40, 130, 140), fill=(200, 30, 30))
    draw.rectangle((180, 60, 259, 139), fill=(30, 60, 200))
    rows, columns = np.mgrid[:200, :300] + 0.5
    disc = (columns - 80.5) ** 2 + (rows - 90.5) ** 2 <= 50.5**2
    square = (columns > 180) & (columns < 260) & (rows > 60) & (rows < 140)
    return image, disc, square


@pytest.fixture(scope="session")
def points():
    """Make prompts: points((x, y), ...), labels=(1, ...), box=None."""

    def make(*xy, labels=None, box=None) -> PointPrompts:
        return PointPrompts(
            xy=np.array(xy, dtype=np.float32).reshape(-1, 2),
            label=np.array([1] * len(xy) if labels is None else labels, dtype=np.int64),
            weight=np.ones(len(xy), dtype=np.float32),
            box_xyxy=box,
        )

    return make
