"""Tiny random models of the real classes, with tokenizers and processors built in memory.

Their attention, masks, caches, grids and chat templates are those of the full-size family on the installed versions.
`doctor` and the tests compare recorded rows with eager attention on them.
"""

from __future__ import annotations

from collections.abc import Callable

from grounding.models.tiny.llava import tiny_llava, tiny_llava_gqa
from grounding.models.tiny.llava_next import tiny_llava_next, tiny_llava_onevision
from grounding.models.tiny.parts import TinyModel
from grounding.models.tiny.qwen import tiny_qwen2_5_vl, tiny_qwen2_vl, tiny_qwen3_vl, tiny_qwen3_vl_moe

TINY: dict[str, Callable[..., TinyModel]] = {
    "llava": tiny_llava,
    "llava_next": tiny_llava_next,
    "llava_onevision": tiny_llava_onevision,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen2_vl": tiny_qwen2_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
}
"""Per model type the builder of its tiny model, which takes `seed`."""

__all__ = ["TINY", "TinyModel", "tiny_llava", "tiny_llava_gqa", "tiny_qwen2_5_vl"]
