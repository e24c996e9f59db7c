"""Compute the frozen backbone's features of every training photo once, into memory-mapped files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.format import open_memmap
from rich.console import Console
from torch import Tensor

from grounding.images import open_image
from grounding.photos import Photo
from grounding.runs.content import picture_hash
from grounding.runs.provenance import short_hash
from grounding.starter.photo.backbone import Backbone

if TYPE_CHECKING:
    from transformers import LlavaProcessor

_CHUNK = 20
_console = Console(stderr=True)


@dataclass(frozen=True)
class Levels:
    """Features of N photos at the backbone's two depths.

    Attributes:
        fine: float16 [N, C, S / 16, S / 16].
        coarse: float16 [N, D, S / 32, S / 32].
    """

    fine: np.ndarray
    coarse: np.ndarray

    def batch(self, rows: np.ndarray, flipped: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return float32 features of some photos, mirrored where `flipped` is True.

        Mirroring features approximates mirroring the pictures, for a backbone that was trained on mirrored pictures.
        """
        pair = []
        for level in (self.fine, self.coarse):
            values = torch.from_numpy(level[rows]).float()
            mirror = torch.from_numpy(flipped)
            values[mirror] = values[mirror].flip(-1)
            pair.append(values)
        return pair[0], pair[1]

    def scales(self, photos: int = 64) -> tuple[float, float]:
        """Return factors (fine, coarse) that scale each depth's root mean square over the first photos to 1."""
        fine, coarse = (
            1 / float(np.sqrt((level[:photos].astype(np.float32) ** 2).mean())) for level in (self.fine, self.coarse)
        )
        return fine, coarse


def cached_levels(backbone: Backbone, processor: LlavaProcessor, photos: Sequence[Photo], folder: Path) -> Levels:
    """Load or compute the features of photos, in their order, in `folder`; an interrupted run resumes.

    Raises:
        ImageError: a photo cannot be read.
        ValueError: the folder holds features of other photos, or of another backbone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, what = folder / "source.txt", _source(backbone, photos)
    if (folder / "fine.npy").exists() and (source.read_text() if source.exists() else "") != what:
        raise ValueError(f"{folder} holds features of other photos or of another backbone: give another folder")
    source.write_text(what)
    side = int(processor.image_processor.size["height"])
    shapes = {
        "fine": (len(photos), backbone.fine_channels, side // 16, side // 16),
        "coarse": (len(photos), backbone.coarse_channels, side // 32, side // 32),
    }
    levels: dict[str, np.memmap] = {}
    for name, shape in shapes.items():
        path = folder / f"{name}.npy"
        fresh = not path.exists()
        levels[name] = open_memmap(path, mode="w+" if fresh else "r+", dtype=np.float16, shape=shape if fresh else None)
        if levels[name].shape != shape:
            raise ValueError(f"{path} holds {levels[name].shape}, expected {shape}: give another folder")
    done = folder / "done.txt"
    first = int(done.read_text()) if done.exists() else 0
    backbone.eval()
    for start in range(first, len(photos), _CHUNK):
        chunk = photos[start : start + _CHUNK]
        pictures = [open_image(photo.file) for photo in chunk]
        pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            for name, values in zip(shapes, backbone(pixels), strict=True):
                levels[name][start : start + len(chunk)] = values.half().numpy()
                levels[name].flush()
        done.write_text(str(start + len(chunk)))
        if (start // _CHUNK) % 10 == 0:
            _console.print(f"features {start + len(chunk)}/{len(photos)}", highlight=False)
    return Levels(levels["fine"], levels["coarse"])


def _source(backbone: Backbone, photos: Sequence[Photo]) -> str:
    """What features are made of, as a hash: the photos' numbers and bytes, and the backbone's weights."""
    weights = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().numpy().tobytes())
    return short_hash([[[photo.id, picture_hash(photo.file)] for photo in photos], weights.hexdigest()], 16)
