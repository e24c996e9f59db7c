"""Load a source of attention maps by name, whatever its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grounding.errors import ModelError
from grounding.model_files import is_pipeline

if TYPE_CHECKING:
    import torch

    from grounding.source import MapSource
    from grounding.text.parse import NounFinder


def load_source(
    name: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    finder: NounFinder | None = None,
) -> MapSource:
    """Load a vision-language model, or a diffusion pipeline where `model_index.json` says that it is one.

    Args:
        name: a starter's name, a folder written by `save_pretrained`, or a hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: accelerate's placement of a vision-language model over several devices; None uses `device` alone.
        finder: finds the head noun of an expression; None uses the built-in rules.

    Raises:
        ModelError: the model cannot be loaded, or a diffusion pipeline was to be spread over devices.
        MissingExtraError: a diffusion pipeline, without the extra `diffusion`.
    """
    if not is_pipeline(name):
        from grounding.models.load import load

        return load(name, device, dtype, device_map, finder)
    if device_map is not None:
        raise ModelError(
            f"--device-map was given, but {name} is a diffusion pipeline, whose transformer must stand on one device "
            "to be recorded: leave it out, or choose --dtype bfloat16"
        )
    from grounding.diffusion.load import load_diffusion

    return load_diffusion(name, device, dtype, finder)
