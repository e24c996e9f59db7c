"""Find the class of a diffusion family by its pipeline's class name; it is imported when it is used.

A family is one file with a `DiffusionSource` subclass and its pipelines in the table below, or a class of another
distribution under the entry-point group `grounding.diffusion`, named by its pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounding.errors import ModelError
from grounding.registry import Registry

if TYPE_CHECKING:
    from grounding.diffusion.base import DiffusionSource

PIPELINES: Registry[DiffusionSource] = Registry(
    "diffusion pipeline",
    "grounding.diffusion",
    {
        "FluxPipeline": "grounding.diffusion.flux:Flux",
        "ChromaPipeline": "grounding.diffusion.chroma:Chroma",
        "Flux2Pipeline": "grounding.diffusion.flux2:Flux2",
        "Flux2KleinPipeline": "grounding.diffusion.flux2:Flux2Klein",
        "StableDiffusion3Pipeline": "grounding.diffusion.sd3:StableDiffusion3",
        "QwenImagePipeline": "grounding.diffusion.qwen_image:QwenImage",
        "ZImagePipeline": "grounding.diffusion.z_image:ZImage",
        "Lumina2Pipeline": "grounding.diffusion.lumina2:Lumina2",
        "WanPipeline": "grounding.diffusion.wan:Wan",
        "LTXPipeline": "grounding.diffusion.ltx:LTXVideo",
        "MochiPipeline": "grounding.diffusion.mochi:Mochi",
        "CogVideoXPipeline": "grounding.diffusion.cogvideox:CogVideoX",
    },
    base="grounding.diffusion.base:DiffusionSource",
    error=ModelError,
)
"""Diffusion families by the class name in `model_index.json`; entry-point group `grounding.diffusion`."""


def pipeline_class(class_name: str, name: str) -> type[DiffusionSource]:
    """Return the family's class for a pipeline.

    Args:
        class_name: `_class_name` in `model_index.json`.
        name: the model that was asked for, for the error message.

    Raises:
        ModelError: no family supports this pipeline.
    """
    if class_name not in PIPELINES:
        raise ModelError(
            f"{name} is a pipeline of class {class_name!r}, which no family here supports: known pipelines are "
            f"{', '.join(PIPELINES)}"
        )
    return PIPELINES.get(class_name)
