"""Find the class of a model family by `config.model_type`; it is imported when it is used.

A family is one file with a `VLM` subclass and one line in the table below, or a class of another distribution under the
entry-point group `grounding.families`, named by its model type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounding.errors import ModelError
from grounding.registry import Registry

if TYPE_CHECKING:
    from grounding.models.base import VLM

FAMILIES: Registry[VLM] = Registry(
    "model type",
    "grounding.families",
    {
        "gemma3": "grounding.models.gemma3:Gemma3",
        "gemma4": "grounding.models.gemma4:Gemma4",
        "gemma4_unified": "grounding.models.gemma4:Gemma4Unified",
        "glm4v": "grounding.models.glm4v:Glm4V",
        "glm4v_moe": "grounding.models.glm4v:Glm4V",
        "glm46v": "grounding.models.glm4v:Glm4V",
        "idefics3": "grounding.models.idefics3:Idefics3",
        "internvl": "grounding.models.internvl:InternVL",
        "llava": "grounding.models.llava:Llava",
        "llava_next": "grounding.models.llava_next:LlavaNext",
        "llava_onevision": "grounding.models.llava_next:LlavaOnevision",
        "mistral3": "grounding.models.mistral3:Mistral3",
        "paligemma": "grounding.models.paligemma:PaliGemma",
        "qwen2_5_vl": "grounding.models.qwen_vl:QwenVL",
        "qwen2_vl": "grounding.models.qwen_vl:QwenVL",
        "qwen3_5": "grounding.models.qwen_vl:Qwen35",
        "qwen3_5_moe": "grounding.models.qwen_vl:Qwen35",
        "qwen3_vl": "grounding.models.qwen_vl:QwenVL",
        "qwen3_vl_moe": "grounding.models.qwen_vl:QwenVL",
        "smolvlm": "grounding.models.idefics3:Idefics3",
    },
    base="grounding.models.base:VLM",
    error=ModelError,
)
"""Model families by model type; entry-point group `grounding.families`."""


PROBE = "probe"
"""The family of models that have none of their own; see `grounding.models.probing.family`."""


def family_class(model_type: str, name: str = "", family: str | None = None) -> type[VLM]:
    """Return the class for a model type.

    Args:
        model_type: `config.model_type` of a transformers model.
        name: the model that was asked for, for the error message.
        family: a known model type to read the model as, or `probe`, instead of its own.

    Returns:
        The family's class; its module is imported now.

    Raises:
        ModelError: no family supports this model type, or the named one is unknown.
    """
    if family == PROBE:
        from grounding.models.probing.family import Probed

        return Probed
    if family is not None:
        if family not in FAMILIES:
            raise ModelError(
                f"--family {family} was given, expected {PROBE} or a known model type{FAMILIES.unknown(family)}"
            )
        return FAMILIES.get(family)
    if model_type not in FAMILIES:
        subject = f"{name} is of model type {model_type!r}" if name else f"the model type is {model_type!r}"
        raise ModelError(
            f"{subject}, which no family here supports{FAMILIES.unknown(model_type)}; --family {PROBE} finds where the "
            "cells of a picture lie in a model without a family"
        )
    return FAMILIES.get(model_type)
