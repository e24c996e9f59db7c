"""A SAM of the real class at tiny size with random weights, as a folder that `load_segmenter` reads."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

SIDE = 64  # input size of the tiny models
DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def sam_config() -> transformers.SamConfig:
    return transformers.SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 8},
        mask_decoder_config=DECODER,
    )


def sam_image_processor() -> transformers.SamImageProcessor:
    size = {"height": SIDE, "width": SIDE}
    return transformers.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=size)


def save_tiny_sam(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.SamModel(sam_config()).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)  # random weights as usual would answer every prompt alike
    model.save_pretrained(folder)
    transformers.SamProcessor(sam_image_processor()).save_pretrained(folder)
    return folder
