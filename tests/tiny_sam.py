"""A SAM of the real class at tiny size with random weights, as a folder that `load_segmenter` reads."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from grounding.text.tiny import byte_tokenizer

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


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_layers": 1}


def tiny_sam3() -> tuple[transformers.Sam3Model, transformers.Sam3Processor]:
    """SAM 3's detector with random weights, and its processor with a byte-level tokenizer."""
    with torch.random.fork_rng(devices=[]):
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
