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
        "aya_vision": "grounding.models.cohere:AyaVision",
        "blip-2": "grounding.models.blip:Blip2",
        "cohere2_vision": "grounding.models.cohere:Cohere2Vision",
        "deepseek_vl": "grounding.models.deepseek_vl:DeepseekVL",
        "deepseek_vl_hybrid": "grounding.models.deepseek_vl:DeepseekVL",
        "gemma3": "grounding.models.gemma3:Gemma3",
        "gemma4": "grounding.models.gemma4:Gemma4",
        "gemma4_unified": "grounding.models.gemma4:Gemma4Unified",
        "glm4v": "grounding.models.glm4v:Glm4V",
        "glm4v_moe": "grounding.models.glm4v:Glm4V",
        "glm46v": "grounding.models.glm4v:Glm4V",
        "idefics3": "grounding.models.idefics3:Idefics3",
        "instructblip": "grounding.models.blip:InstructBlip",
        "internvl": "grounding.models.internvl:InternVL",
        "kimi_k25": "grounding.models.kimi:KimiK25",
        "lfm2_vl": "grounding.models.lfm2_vl:Lfm2VL",
        "llama4": "grounding.models.llama4:Llama4",
        "llava": "grounding.models.llava:Llava",
        "llava_next": "grounding.models.llava_next:LlavaNext",
        "llava_onevision": "grounding.models.llava_next:LlavaOnevision",
        "minicpmv4_6": "grounding.models.minicpm:MiniCPMV",
        "minicpmv4_7": "grounding.models.minicpm:MiniCPMV",
        "mistral3": "grounding.models.mistral3:Mistral3",
        "mllama": "grounding.models.mllama:Mllama",
        "molmo2": "grounding.models.molmo2:Molmo2",
        "ovis2": "grounding.models.ovis2:Ovis2",
        "paligemma": "grounding.models.paligemma:PaliGemma",
        "phi4_multimodal": "grounding.models.phi:Phi4Multimodal",
        "qwen2_5_vl": "grounding.models.qwen_vl:QwenVL",
        "qwen2_vl": "grounding.models.qwen_vl:Qwen2VL",
        "qwen3_5": "grounding.models.qwen_vl:Qwen35",
        "qwen3_5_moe": "grounding.models.qwen_vl:Qwen35",
        "qwen3_vl": "grounding.models.qwen_vl:Qwen3VL",
        "qwen3_vl_moe": "grounding.models.qwen_vl:Qwen3VL",
        "smolvlm": "grounding.models.idefics3:SmolVLM",
    },
    base="grounding.models.base:VLM",
    error=ModelError,
)
"""Model families by model type; entry-point group `grounding.families`."""

_ENCODED = (
    "its encoder mixes the picture's cells with each other and with the words before its decoder reads them, so "
    "attention of the decoder is no map"
)
_OWN_CODE = "transformers has no class for it, and code that a checkpoint brings is not run"

UNSUPPORTED: dict[str, str] = {
    "florence2": _ENCODED,
    "idefics": (
        "each of its image tokens is a learned query that reads the whole picture, so no token stands for a part of it "
        "and attention over tokens is no map"
    ),
    "instructblipvideo": (
        "its Q-Former reads every frame in a pass of its own, and one pass is followed here; instructblip is known"
    ),
    "kimi_vl": f"{_OWN_CODE}; kimi_k25 is known",
    "minicpmv": f"{_OWN_CODE}; minicpmv4_6 and minicpmv4_7 are known",
    "molmo": f"{_OWN_CODE}; molmo2 is known",
    "multi_modality": f"{_OWN_CODE}; deepseek_vl and deepseek_vl_hybrid are known",
    "phi4mm": _OWN_CODE,
}
"""Per model type of a vision-language model without a family here, the reason."""


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
    refuse_unsupported(model_type, name)
    if model_type not in FAMILIES:
        subject = f"{name} is of model type {model_type!r}" if name else f"the model type is {model_type!r}"
        raise ModelError(
            f"{subject}, which no family here supports{FAMILIES.unknown(model_type)}; --family {PROBE} finds where the "
            "cells of a picture lie in a model without a family"
        )
    return FAMILIES.get(model_type)


def refuse_unsupported(model_type: str, name: str = "") -> None:
    """Refuse a model type that is known not to work, unless another distribution has a family for it.

    Args:
        model_type: `config.model_type` of a model.
        name: the model that was asked for, for the error message.

    Raises:
        ModelError: no family supports this model type, and the reason is known.
    """
    if model_type in UNSUPPORTED and model_type not in FAMILIES:
        raise ModelError(
            f"{name or 'the model'} is of model type {model_type!r}, which cannot be used here: "
            f"{UNSUPPORTED[model_type]}; choose a model of another type, for example qwen3_vl or llava_onevision"
        )
