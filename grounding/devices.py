"""Devices and number formats by name: `auto`, `cuda:1`, `bfloat16`."""

from __future__ import annotations

import re

import torch

from grounding.errors import ModelError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Resolve a device's name on this machine.

    Args:
        name: `auto` (the first available of CUDA, Apple's MPS and the CPU), `cpu`, `cuda`, `cuda:1` or `mps`.

    Returns:
        The device; `cuda` without an index is torch's current one.

    Raises:
        ModelError: an unknown name, or a device that this machine does not have.
    """
    text = str(name)
    if text == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise ModelError(f"device {text!r} is not known: choose auto, cpu, cuda, cuda:0 (1, 2, ...) or mps")
    device = torch.device(text)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ModelError(f"device {text!r} was asked for, but torch sees no CUDA device here: use --device cpu")
        if (device.index or 0) >= count:
            raise ModelError(
                f"device {text!r} was asked for, but this machine has {count} CUDA device(s): "
                f"use cuda:0 to cuda:{count - 1}"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' was asked for, but torch sees no Apple GPU here: use --device cpu")
    return device


def resolve_dtype(name: str | torch.dtype = "auto", device: torch.device | None = None) -> torch.dtype:
    """Resolve a number format's name.

    Args:
        name: `auto`, `float32`, `bfloat16` or `float16`.
        device: device that `auto` depends on: float32 on the CPU and on MPS; on CUDA bfloat16 if the hardware computes
            it, otherwise float16.

    Returns:
        The torch dtype.

    Raises:
        ModelError: an unknown name.
    """
    text = str(name).removeprefix("torch.")
    if text == "auto":
        if device is None or device.type != "cuda":
            return torch.float32
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16
    if text not in DTYPES:
        raise ModelError(f"dtype {text!r} is not known: choose auto, {', '.join(DTYPES)}")
    return DTYPES[text]
