"""The table of families under contract: one line each, and one for each variant of another layout or attention.

How a family is added stands in CONTRIBUTING.md. The files `test_family_*.py` are the contract, and run over all lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from grounding.compat import decoder_attentions
from grounding.models.base import VLM
from grounding.models.prepared import Prepared
from grounding.models.registry import family_class
from grounding.models.tiny import TINY, TinyModel, tiny_llava
from grounding.models.tiny.blip import tiny_blip2, tiny_instructblip
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
        weights: under eager attention, per element [L, H, N, K] from every position to the keys of its layout, where
            cells are no tokens of the sequence; None where they are.
    """

    build: Callable[..., TinyModel] | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((141, 83), (75, 121))
    grids: tuple[int, int] = (1, 1)
    full: bool = True
    weights: Callable[[VLM, Prepared], list[torch.Tensor]] | None = None

    def vlm(self, model_type: str, seed: int = 0) -> VLM:
        """The adapter around a fresh model."""
        return family_class(model_type)(*(self.build or TINY[model_type])(seed=seed))


def weights_through_query_tokens(vlm: VLM, prepared: Prepared) -> list[torch.Tensor]:
    """The decoder's weights on the query tokens times the mean of the Q-Former's own cross-attention."""
    inputs, model = dict(prepared.inputs), vlm.model
    full = torch.stack(decoder_attentions(model(**inputs, output_attentions=True, use_cache=False)), dim=1)
    pixels = model.vision_model(inputs["pixel_values"]).last_hidden_state
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    asked = {}
    if "qformer_input_ids" in inputs:
        real = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), inputs["qformer_attention_mask"]], dim=1)
        asked = {"input_ids": inputs["qformer_input_ids"], "attention_mask": real}
    read = model.qformer(**asked, query_embeds=queries, encoder_hidden_states=pixels, output_attentions=True)
    weights = torch.stack(read.cross_attentions).mean((0, 2))  # [B, Q, K]
    return [
        own[..., layout.image.tolist()] @ its for own, layout, its in zip(full, prepared.layouts, weights, strict=True)
    ]


def weights_of_cross_attention(vlm: VLM, prepared: Prepared) -> list[torch.Tensor]:
    """The decoder's layers of cross-attention alone."""
    attentions = vlm.model(**prepared.inputs, output_attentions=True, use_cache=False).attentions
    full = torch.stack([attentions[layer] for layer in vlm.model.config.text_config.cross_attention_layers], dim=1)
    return [own[..., layout.keys.tolist()] for own, layout in zip(full, prepared.layouts, strict=True)]


# A variant's name is its model type, a slash, and what differs.
FAMILIES: dict[str, Family] = {
    "aya_vision": Family(grids=(3, 3)),
    "blip-2": Family(weights=weights_through_query_tokens),
    "blip-2/llama": Family(partial(tiny_blip2, text="llama"), weights=weights_through_query_tokens),
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
    "instructblip": Family(weights=weights_through_query_tokens),
    "instructblip/opt": Family(partial(tiny_instructblip, text="opt"), weights=weights_through_query_tokens),
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
    "mllama": Family(weights=weights_of_cross_attention),
    "molmo2": Family(grids=(2, 2)),
    "ovis2": Family(grids=(3, 3)),
    "ovis2/whole": Family(partial(tiny_ovis2, split=False)),
    "paligemma": Family(),
    "paligemma/second": Family(partial(tiny_paligemma, second=True)),
    "phi4_multimodal": Family(sizes=((251, 71), (71, 121)), grids=(2, 2)),
    "qwen2_5_vl": Family(),
    "qwen2_vl": Family(),
    "qwen3_5": Family(),
    "qwen3_5_moe": Family(),
    "qwen3_vl": Family(),
    "qwen3_vl_moe": Family(),
    "smolvlm": Family(grids=(5, 5)),
}
