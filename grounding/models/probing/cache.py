"""Keep probed layouts between processes, one small file per model and picture size.

The files lie in the user's cache folder under `vlm-grounding/layouts`. A file's name is a hash of what a layout depends
on: the weights in front of the decoder, and what the processor makes of a picture of that size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from grounding.errors import OutputError
from grounding.files import cache_folder, write_text
from grounding.layout import ImageGrid

FORMAT = 2  # of the files, and of the way to find grids


def weights_hash(model: Any) -> str:
    """Hash the config of a model and its weights in front of the decoder; 16 hexadecimal digits.

    Args:
        model: a transformers model for image-text generation.
    """
    digest = hashlib.sha256(f"{FORMAT} {transformers.__version__}".encode())
    inside = {id(parameter) for parameter in model.get_decoder().parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in inside and not parameter.is_meta:  # a part that is kept on a disk
            _add(digest, name, parameter)
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def layout_key(weights: str, inputs: Mapping[str, Tensor], size: tuple[int, int], bands: int) -> str:
    """The key of a layout.

    Args:
        weights: see `weights_hash`.
        inputs: what the processor makes of a picture that shows how it is resized and cut, in its prompt.
        size: (width, height) of the picture in pixels.
        bands: most bands along each axis.
    """
    digest = hashlib.sha256(f"{weights} {bands}".encode())
    for name in sorted(inputs):
        _add(digest, name, inputs[name])
    return f"{digest.hexdigest()[:16]}-{size[0]}x{size[1]}"


def _add(digest: Any, name: str, values: Tensor) -> None:
    digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
    digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def read_layout(key: str) -> tuple[ImageGrid, ...] | None:
    """The grids that `write_layout` kept under a key; None where there are none, or the file is broken."""
    try:
        found = json.loads(_file(key).read_bytes())
        return tuple(
            ImageGrid(np.array(one["positions"], np.int64), tuple(one["shape"]), tuple(one["box_xyxy"]))
            for one in found["grids"]
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):  # RuntimeError: the user has no home
        return None


def write_layout(key: str, grids: tuple[ImageGrid, ...]) -> None:
    """Keep grids under a key; a file that cannot be written only costs time."""
    rows = [{"positions": one.positions.tolist(), "shape": one.shape, "box_xyxy": one.box_xyxy} for one in grids]
    with contextlib.suppress(OutputError, OSError, RuntimeError):
        write_text(_file(key), json.dumps({"grids": rows}))


def _file(key: str) -> Path:
    return cache_folder() / "layouts" / f"{key}.json"
