"""Load a segmenter by name: `mobile-sam`, `sam:vit_b:FILE`, a checkpoint file, a hub id or a folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from grounding import compat, hub
from grounding.devices import resolve_device, resolve_dtype
from grounding.errors import SegmenterError
from grounding.files import user_path
from grounding.model_files import models_beside
from grounding.segmenters.base import Segmenter

MOBILE_VARIANT = "vit_t"
VARIANTS = ("vit_b", "vit_l", "vit_h", MOBILE_VARIANT)
CHECKPOINT_ENDINGS = (".pth", ".pt", ".bin")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
KNOWN_FORMS = (
    "mobile-sam; sam:vit_b:FILE (vit_b, vit_l, vit_h, vit_t); a checkpoint file whose name says the variant "
    "(sam_vit_b_01ec64.pth); the hub id or the folder of a transformers SAM, SAM 2 or SAM 3 tracker "
    "(facebook/sam2.1-hiera-tiny)"
)


def load_segmenter(
    name: str = "mobile-sam", device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> Segmenter:
    """Load a segmenter by name.

    Args:
        name: one of
            `mobile-sam`: MobileSAM from a package of the extra `starter`, no download;
            `sam:vit_b:FILE`: a checkpoint of `segment-anything` (`vit_b`, `vit_l`, `vit_h`) or of MobileSAM (`vit_t`);
            `FILE`: the same if the file's name contains the variant;
            a hub id or a folder of a `SamModel`, `Sam2Model` or `Sam3TrackerModel`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: number format of the image encoder: `auto`, `float32`, `bfloat16` or `float16`.

    Returns:
        The segmenter, without an image.

    Raises:
        SegmenterError: the name has none of the known forms, or the files cannot be found or loaded.
        MissingExtraError: MobileSAM without the extra `starter`.
        ModelError: an unknown or unavailable device or number format.
    """
    place = resolve_device(device)
    number_format = resolve_dtype(dtype, place)
    if name == "mobile-sam":
        from grounding.segmenters.mobile_sam import load_mobile_sam

        return load_mobile_sam(name, place, number_format)
    checkpoint = _checkpoint(name)
    if checkpoint:
        return _load_checkpoint(*checkpoint, name, place, number_format)
    return _load_hub(name, str(weights_of(name)), place, number_format)


def weights_of(name: str) -> Path | str:
    """Find a segmenter's weights without loading them.

    Args:
        name: see `load_segmenter`.

    Returns:
        The path of a checkpoint file or of a folder, as `name` has it; or a hub id.

    Raises:
        SegmenterError: the name has none of the known forms, or the file is missing.
        MissingExtraError: MobileSAM without the extra `starter`.
    """
    if name == "mobile-sam":
        from grounding.segmenters.packaged import packaged_checkpoint

        return packaged_checkpoint()
    checkpoint = _checkpoint(name)
    if checkpoint:
        return checkpoint[1]
    folder = user_path(name)
    if name and folder.is_dir():
        return folder
    near = hub.did_you_mean(name, models_beside(name))
    if not near and _HUB_ID.fullmatch(name) and not name.startswith("."):
        return name
    near = near or hub.did_you_mean(name, ("mobile-sam",))
    raise SegmenterError(f"segmenter {name!r} is not known{near}; known forms: {KNOWN_FORMS}")


def hub_commit(name: str) -> str:
    """The commit of a hub segmenter that loading would use now; see `grounding.compat.hub_commit`.

    Raises:
        SegmenterError: the hub does not know it, or cannot be reached and it is not in the local cache.
    """
    from grounding.segmenters.hub import not_loadable

    try:
        with hub.without_waiting(name):
            return compat.hub_commit(name)
    except (OSError, ValueError) as error:
        raise not_loadable(name, error) from error


def _checkpoint(name: str) -> tuple[str, Path] | None:
    """Return (variant, file) if the name means a checkpoint file."""
    prefix, _, rest = name.partition(":")
    if prefix == "sam":
        variant, _, file = rest.partition(":")
        if variant not in VARIANTS or not file:
            raise SegmenterError(
                f"segmenter {name!r} should read sam:VARIANT:FILE with VARIANT one of {', '.join(VARIANTS)}"
            )
        return variant, user_path(file)
    path = user_path(name)
    if path.suffix not in CHECKPOINT_ENDINGS:
        return None
    if not path.is_file():
        raise SegmenterError(f"segmenter {name!r}: there is no such checkpoint file; known forms: {KNOWN_FORMS}")
    stem = path.stem.lower()
    if "mobile" in stem:
        return MOBILE_VARIANT, path
    for variant in VARIANTS:
        if variant in stem:
            return variant, path
    raise SegmenterError(f"segmenter {name!r}: the file's name does not say which SAM it is; write sam:vit_b:{name}")


def _load_checkpoint(variant: str, path: Path, name: str, device: torch.device, dtype: torch.dtype) -> Segmenter:
    if variant == MOBILE_VARIANT:
        from grounding.segmenters.mobile_sam import load_mobile_sam

        return load_mobile_sam(name, device, dtype, path)
    from grounding.segmenters.segment_anything import load_segment_anything

    return load_segment_anything(variant, path, name, device, dtype)


def _load_hub(name: str, source: str, device: torch.device, dtype: torch.dtype) -> Segmenter:
    """Load a transformers checkpoint with the backend of its `model_type`."""
    from transformers import AutoConfig

    from grounding.segmenters.hub import HubSegmenter, not_loadable
    from grounding.segmenters.sam import SamSegmenter
    from grounding.segmenters.sam2 import Sam2Segmenter
    from grounding.segmenters.sam3_tracker import Sam3TrackerSegmenter

    backends: tuple[type[HubSegmenter], ...] = (SamSegmenter, Sam2Segmenter, Sam3TrackerSegmenter)
    with hub.without_waiting(source):
        try:
            model_type = AutoConfig.from_pretrained(source).model_type
        except (OSError, ValueError) as error:
            raise not_loadable(name, error) from error
        for backend in backends:
            if model_type in backend.config_types:
                return backend.load(source, device, dtype)
    known = sorted(t for backend in backends for t in backend.config_types)
    raise SegmenterError(
        f"segmenter {name!r} is a model of type {model_type!r}, which takes no points; known types: {', '.join(known)}"
    )
