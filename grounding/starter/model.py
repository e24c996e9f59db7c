"""Build the starter: transformers' LLaVA classes at a size that trains on a laptop.

The vision tower reads 192 px pictures as 12 x 12 cells; a two-layer projector connects it to a small Llama. Everything
is built from code and a seed; nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from grounding.scenes.language import CELLS, DESCRIBE, ENUMERATE, LOCATE, PLACE, VOCABULARY

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import (
        LlamaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PretrainedConfig,
        PreTrainedTokenizerFast,
    )
    from transformers.models.llama.modeling_llama import LlamaAttention

PATCH = 16
IMAGE_SIZE = CELLS * PATCH
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
NOTICE = (
    "starter: a small model that knows drawn scenes only (six shapes, eight colours, two sizes, two patterns); "
    "for photographs name a hub model with --model"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def build_tokenizer(vocabulary: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer with a closed vocabulary; text is lowercased and split at punctuation."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *vocabulary))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def build_processor() -> LlavaProcessor:
    """Build a LLaVA processor; pictures are resized to the tower's square input, without a crop."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, do_center_crop=False),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_model(seed: int, *, attention: str = "sdpa") -> LlavaForConditionalGeneration:
    """Build the model with random weights."""
    from grounding.starter.tower import StarterTowerConfig

    vision = StarterTowerConfig(image_size=IMAGE_SIZE, patch_size=PATCH)
    text = text_config(len(VOCABULARY), width=128, hidden=384, layers=5, heads=4, positions=1024, rope_theta=1e7)
    model = assemble(
        vision,
        text,
        cells=CELLS * CELLS,
        features="default",
        notice=NOTICE,
        prompt=LOCATE,
        describe=DESCRIBE,
        listing=(DESCRIBE, ENUMERATE, PLACE),
        seed=seed,
        attention=attention,
    )
    model.model.vision_tower.places.data[:, 1:] = plane_waves(CELLS, vision.hidden_size)
    return model


def text_config(
    words: int, *, width: int, hidden: int, layers: int, heads: int, positions: int, rope_theta: float
) -> LlamaConfig:
    """Build the config of a small Llama with tied embeddings.

    Args:
        words: size of the vocabulary without special tokens.
        width: width of the hidden states.
        hidden: width of the feed-forward layers.
        layers: decoder layers.
        heads: attention heads per layer.
        positions: longest sequence.
        rope_theta: base of the rotary position embedding. It is larger than usual because words attend by content to
            cells hundreds of positions away, and in narrow heads most dimensions rotate too fast for that.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(SPECIAL_TOKENS) + words,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<s>"),
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
    )


def assemble(
    vision: PretrainedConfig,
    text: LlamaConfig,
    *,
    cells: int,
    features: Literal["default", "full"],
    notice: str,
    prompt: str,
    describe: str,
    listing: Sequence[str],
    seed: int,
    attention: str = "sdpa",
) -> LlavaForConditionalGeneration:
    """Build a LLaVA with random weights; half of its heads start with equal query and key matrices.

    Args:
        vision: the tower's config.
        text: the language model's config.
        cells: image tokens per picture.
        features: LLaVA's feature selection: `default` drops a class token, `full` keeps all tokens.
        notice: the notice that every run with the model prints.
        prompt: the grounding prompt of its training.
        describe: the description prompt of its training.
        listing: the questions of its training for the objects of a picture, the most useful one first.
        seed: seed of the weights.
        attention: transformers' name of the attention kernel.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy=features,
        image_seq_length=cells,
        tie_word_embeddings=True,
        grounding_notice=notice,
        grounding_prompt=prompt,
        grounding_describe=describe,
        grounding_list=list(listing),
        grounding_brief="",  # trained to answer a question in one word, with none that asks for it
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        attend_to_likeness(layer.self_attn)
    return model


def attend_to_likeness(attention: LlamaAttention) -> None:
    """Initialise half of the heads with equal query and key matrices, so that tokens attend to similar tokens.

    Words then attend to similar cells from the first step on (mimetic initialisation, Trockman & Kolter, 2023, of
    queries and keys only).
    """
    import torch

    width = attention.q_proj.in_features
    half = torch.randn(attention.q_proj.out_features // 2, width) / width**0.5
    attention.q_proj.weight.data[: len(half)] = half
    attention.k_proj.weight.data[: len(half)] = half


def plane_waves(cells: int, width: int) -> Tensor:
    """Return sines and cosines of column and row, [cells * cells, width], so that neighbouring cells are similar."""
    import torch

    frequencies = torch.pi / 2 ** torch.linspace(0, math.log2(2 * cells), width // 4)
    row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    phases = [axis.flatten()[:, None] * frequencies for axis in (column, row)]
    return 0.5 * torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], dim=1)
