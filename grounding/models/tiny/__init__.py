"""Tiny random models of the real classes, with tokenizers and processors built in memory.

Their attention, masks, caches, grids and chat templates are those of the full-size family on the installed versions.
`doctor` and the tests compare recorded rows with eager attention on them.
"""

from __future__ import annotations

from collections.abc import Callable

from grounding.models.tiny.blip import tiny_blip2, tiny_instructblip
from grounding.models.tiny.cohere import tiny_aya_vision, tiny_cohere2_vision
from grounding.models.tiny.deepseek import tiny_deepseek_vl, tiny_deepseek_vl_hybrid, tiny_kimi_k25
from grounding.models.tiny.gemma import tiny_gemma3, tiny_paligemma
from grounding.models.tiny.gemma4 import tiny_gemma4, tiny_gemma4_unified
from grounding.models.tiny.glm import tiny_glm4v, tiny_glm4v_moe, tiny_glm46v
from grounding.models.tiny.idefics import tiny_idefics3, tiny_smolvlm
from grounding.models.tiny.internvl import tiny_internvl
from grounding.models.tiny.lfm import tiny_lfm2_vl
from grounding.models.tiny.llama4 import tiny_llama4
from grounding.models.tiny.llava import tiny_llava, tiny_llava_gqa
from grounding.models.tiny.llava_next import tiny_llava_next, tiny_llava_onevision
from grounding.models.tiny.minicpm import tiny_minicpmv4_6, tiny_minicpmv4_7
from grounding.models.tiny.mistral import tiny_mistral3
from grounding.models.tiny.mllama import tiny_mllama
from grounding.models.tiny.molmo2 import tiny_molmo2
from grounding.models.tiny.ovis import tiny_ovis2
from grounding.models.tiny.parts import TinyModel
from grounding.models.tiny.phi import tiny_phi4_multimodal
from grounding.models.tiny.qwen import (
    tiny_qwen2_5_vl,
    tiny_qwen2_vl,
    tiny_qwen3_5,
    tiny_qwen3_5_moe,
    tiny_qwen3_vl,
    tiny_qwen3_vl_moe,
)

TINY: dict[str, Callable[..., TinyModel]] = {
    "aya_vision": tiny_aya_vision,
    "blip-2": tiny_blip2,
    "cohere2_vision": tiny_cohere2_vision,
    "deepseek_vl": tiny_deepseek_vl,
    "deepseek_vl_hybrid": tiny_deepseek_vl_hybrid,
    "gemma3": tiny_gemma3,
    "gemma4": tiny_gemma4,
    "gemma4_unified": tiny_gemma4_unified,
    "glm4v": tiny_glm4v,
    "glm4v_moe": tiny_glm4v_moe,
    "glm46v": tiny_glm46v,
    "idefics3": tiny_idefics3,
    "instructblip": tiny_instructblip,
    "internvl": tiny_internvl,
    "kimi_k25": tiny_kimi_k25,
    "lfm2_vl": tiny_lfm2_vl,
    "llama4": tiny_llama4,
    "llava": tiny_llava,
    "llava_next": tiny_llava_next,
    "llava_onevision": tiny_llava_onevision,
    "minicpmv4_6": tiny_minicpmv4_6,
    "minicpmv4_7": tiny_minicpmv4_7,
    "mistral3": tiny_mistral3,
    "mllama": tiny_mllama,
    "molmo2": tiny_molmo2,
    "ovis2": tiny_ovis2,
    "paligemma": tiny_paligemma,
    "phi4_multimodal": tiny_phi4_multimodal,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen2_vl": tiny_qwen2_vl,
    "qwen3_5": tiny_qwen3_5,
    "qwen3_5_moe": tiny_qwen3_5_moe,
    "qwen3_vl": tiny_qwen3_vl,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
    "smolvlm": tiny_smolvlm,
}
"""Per model type the builder of its tiny model, which takes `seed`."""

__all__ = ["TINY", "TinyModel", "tiny_llava", "tiny_llava_gqa", "tiny_qwen2_5_vl"]
