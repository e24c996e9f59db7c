"""Load a diffusion pipeline from a folder, a hub id or a packaged starter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounding.compat import pipeline_dtype_argument
from grounding.diffusion.parts import (
    explain_packages,
    load_text_encoders,
    quantised,
    refuse_missing_parts,
    refuse_missing_weights,
    refuse_quantised,
)
from grounding.diffusion.reading import SETTINGS, read_settings
from grounding.diffusion.registry import pipeline_class
from grounding.errors import MissingExtraError, ModelError
from grounding.model_files import PIPELINE, explained, source_of

if TYPE_CHECKING:
    import torch

    from grounding.diffusion.base import DiffusionSource
    from grounding.text.parse import NounFinder

_SMALLER = "choose a smaller model, --dtype bfloat16, or another --device"


def load_diffusion(
    name_or_folder: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    finder: NounFinder | None = None,
) -> DiffusionSource:
    """Load a diffusion pipeline with all of its parts.

    Args:
        name_or_folder: a starter's name, a folder that a pipeline's `save_pretrained` wrote, or a hub id.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        finder: finds the head noun of an expression; None uses the built-in rules.

    Raises:
        ModelError: an unknown pipeline class, a missing text encoder or other part, missing or broken files, an unknown
            device or dtype, a quantised or offloaded transformer, or out of memory.
        MissingExtraError: diffusers is not installed.
    """
    from grounding.devices import resolve_device, resolve_dtype
    from grounding.memory import explain_out_of_memory

    if find_spec("diffusers") is None:
        raise MissingExtraError("diffusers", "diffusion", f"the diffusion pipeline {name_or_folder}")
    target = resolve_device(device)
    number_format = resolve_dtype(dtype, target)
    source = source_of(name_or_folder)
    from diffusers import DiffusionPipeline

    with explained(name_or_folder, f"its {PIPELINE}"):
        index = DiffusionPipeline.load_config(source)
        if not isinstance(index, Mapping):
            raise ValueError("it holds no keys and values")
    family = pipeline_class(str(index.get("_class_name")), name_or_folder)
    refuse_missing_parts(index, family.required, name_or_folder, Path(source))
    refuse_quantised(source, name_or_folder)
    with explain_out_of_memory(f"loading {name_or_folder} on {target}", _SMALLER):
        with explained(name_or_folder, "its weights"), explain_packages(name_or_folder):
            encoders = load_text_encoders(index, source, name_or_folder, number_format)
            pipe = DiffusionPipeline.from_pretrained(source, **encoders, **{pipeline_dtype_argument(): number_format})
        refuse_unreadable(pipe, name_or_folder)
        pipe = pipe.to(target)
    return family(pipe, name_or_folder, finder, read_settings(_settings_folder(source)))


def refuse_unreadable(pipe: Any, name: str) -> None:
    """Refuse a transformer whose attention cannot be recorded on its device, and parts that lack weights.

    Raises:
        ModelError: the transformer is quantised, its weights are moved between devices while it runs, or a part's
            checkpoint is not complete.
    """
    transformer = pipe.transformer
    if getattr(transformer, "hf_quantizer", None) is not None or "quantization_config" in transformer.config:
        raise ModelError(quantised(name))
    if any(hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in transformer.modules()):
        raise ModelError(
            f"the transformer of {name} is offloaded (its weights move between devices while it runs): load it on one "
            "device, without enable_model_cpu_offload, enable_sequential_cpu_offload or group offloading"
        )
    for part in (transformer, pipe.vae):
        # diffusers only warns of tensors that a checkpoint lacks, and leaves them without data.
        refuse_missing_weights(part, [key for key, weight in part.named_parameters() if weight.is_meta], name)


def _settings_folder(source: str) -> Path:
    """The folder that may hold a model's own settings; of a hub id, the cached file's."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, SETTINGS)
    return Path(found).parent if isinstance(found, str) else Path(source)
