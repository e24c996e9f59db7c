"""The table of families under contract: one line each, and one for each variant of another layout or attention.

How a family is added stands in CONTRIBUTING.md. The files `test_family_*.py` are the contract, and run over all lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from grounding.models.base import VLM
from grounding.models.registry import family_class
from grounding.models.tiny import TINY, TinyModel, tiny_llava
from grounding.models.tiny.gemma import tiny_gemma3, tiny_paligemma
from grounding.models.tiny.gemma4 import tiny_gemma4
from grounding.models.tiny.idefics import tiny_idefics3
from grounding.models.tiny.lfm import tiny_lfm2_vl
from grounding.models.tiny.minicpm import tiny_minicpmv4_6
from grounding.models.tiny.mistral import tiny_pixtral
from grounding.models.tiny.ovis import tiny_ovis2


@dataclass(frozen=True)
class Family:
    """One line of the table.

    Attributes:
        build: builds the tiny model; the one of `TINY` where None.
        sizes: (width, height) of two pictures, odd and of different shape. The first must be large enough that the
            processor does not enlarge it, so that resizing does not carry a patch beyond its cell.
        grids: how many grids each of them has.
        full: whether their grids cover the whole pictures.
    """

    build: Callable[..., TinyModel] | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((141, 83), (75, 121))
    grids: tuple[int, int] = (1, 1)
    full: bool = True

    def vlm(self, model_type: str, seed: int = 0) -> VLM:
        """The adapter around a fresh model."""
        return family_class(model_type)(*(self.build or TINY[model_type])(seed=seed))


# A variant's name is its model type, a slash, and what differs.
FAMILIES: dict[str, Family] = {
    "aya_vision": Family(grids=(3, 3)),
    "cohere2_vision": Family(grids=(5, 5)),
    "deepseek_vl": Family(),
    "deepseek_vl_hybrid": Family(),
    "gemma3": Family(),
    "gemma3/pan and scan": Family(partial(tiny_gemma3, pan_and_scan=True), grids=(3, 3)),
    "gemma4": Family(),
    "gemma4/large": Family(partial(tiny_gemma4, large=True)),
    "gemma4_unified": Family(),
    "glm4v": Family(),
    "glm4v_moe": Family(),
    "glm46v": Family(),
    "idefics3": Family(grids=(5, 5)),
    "idefics3/whole": Family(partial(tiny_idefics3, split=False)),
    "internvl": Family(grids=(3, 3)),
    "kimi_k25": Family(),
    "lfm2_vl": Family(grids=(3, 3)),
    "lfm2_vl/whole": Family(partial(tiny_lfm2_vl, split=False)),
    "llama4": Family(grids=(5, 5)),
    "llava": Family(full=False),
    "llava/exact size": Family(partial(tiny_llava, resize="exact")),
    "llava_next": Family(grids=(2, 2)),
    "llava_onevision": Family(grids=(2, 2)),
    "llava/pixtral": Family(tiny_pixtral),
    "minicpmv4_6": Family(grids=(3, 3)),
    "minicpmv4_6/4x": Family(partial(tiny_minicpmv4_6, mode="4x"), grids=(3, 3)),
    "minicpmv4_7": Family(grids=(3, 3)),
    "mistral3": Family(),
    "molmo2": Family(grids=(2, 2)),
    "ovis2": Family(grids=(3, 3)),
    "ovis2/whole": Family(partial(tiny_ovis2, split=False)),
    "paligemma": Family(),
    "paligemma/second": Family(partial(tiny_paligemma, second=True)),
    "qwen2_5_vl": Family(),
    "qwen2_vl": Family(),
    "qwen3_5": Family(),
    "qwen3_5_moe": Family(),
    "qwen3_vl": Family(),
    "qwen3_vl_moe": Family(),
    "smolvlm": Family(grids=(5, 5)),
}
