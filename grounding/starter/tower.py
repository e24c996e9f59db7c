"""The starter's vision tower: a convolutional stem, then a few transformer blocks with a class token.

A convolutional stem needs far fewer training pictures than raw patches (Xiao et al., 2021, "Early convolutions help
transformers see better"). Importing this module registers the class with transformers' auto classes, so that a LLaVA
config can name it as its vision model.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class StarterTowerConfig(PretrainedConfig):
    """Shape of the tower.

    Args:
        hidden_size: width of the hidden states.
        intermediate_size: width of the feed-forward layers.
        num_hidden_layers: transformer blocks.
        num_attention_heads: attention heads per block.
        image_size: side of the square picture in pixels.
        patch_size: side in pixels of the cell of one token, 2 to the number of the stem's stride-2 convolutions.
        stem_sizes: channels after all but the last stride-2 convolution.
        initializer_range: standard deviation of the initial weights.
    """

    model_type = "grounding_starter_tower"
    base_config_key = "vision_config"

    def __init__(
        self,
        hidden_size: int = 144,
        intermediate_size: int = 576,
        num_hidden_layers: int = 3,
        num_attention_heads: int = 4,
        image_size: int = 192,
        patch_size: int = 16,
        stem_sizes: tuple[int, ...] = (24, 48, 96),
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if patch_size != 2 ** (len(stem_sizes) + 1):
            raise ValueError(
                f"{len(stem_sizes) + 1} halvings make cells of {2 ** (len(stem_sizes) + 1)} px, not {patch_size}"
            )
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.stem_sizes = tuple(stem_sizes)
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


class StarterTower(PreTrainedModel):
    """Encode a picture into one class token and one token per cell."""

    config_class = StarterTowerConfig
    main_input_name = "pixel_values"
    input_modalities: ClassVar[tuple[str, ...]] = ("image",)
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def __init__(self, config: StarterTowerConfig) -> None:
        super().__init__(config)
        sizes = (3, *config.stem_sizes, config.hidden_size)
        halvings = [_convolution(before, after, stride=2) for before, after in itertools.pairwise(sizes)]
        # The stride-1 layers widen the receptive field from a third to more than half of the picture's side.
        last, width = config.stem_sizes[-1], config.hidden_size
        self.stem = nn.Sequential(
            *halvings[:-1],
            _convolution(last, last),
            halvings[-1],
            _convolution(width, width),
            _convolution(width, width),
        )
        cells = (config.image_size // config.patch_size) ** 2
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 1 + cells, width))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pictures.

        Args:
            pixel_values: [B, 3, image_size, image_size], with CLIP's normalisation.
            kwargs: arguments of other towers, ignored; every layer's output is always returned.

        Returns:
            `last_hidden_state` [B, 1 + cells, hidden_size], the class token first and the cells row by row;
            `hidden_states` holds it last, after every earlier layer's.
        """
        cells = self.stem(pixel_values.to(self.places.dtype)).flatten(2).transpose(1, 2)  # [B, cells, width]
        hidden = torch.cat([self.class_token.expand(len(cells), -1, -1), cells], dim=1) + self.places
        layers = [hidden]
        for block in self.blocks:
            layers.append(block(layers[-1]))
        return BaseModelOutputWithPooling(
            last_hidden_state=layers[-1], pooler_output=layers[-1][:, 0], hidden_states=tuple(layers)
        )


class Block(nn.Module):
    """Pre-norm transformer block: self-attention and a feed-forward layer, with residual connections."""

    def __init__(self, config: StarterTowerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, width),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, N, width] to [B, N, width]."""
        joint = self.query_key_value(self.attention_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)  # each [B, H, N, D]
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self.output(mixed)
        return hidden + self.perceptron(hidden)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


AutoConfig.register(StarterTowerConfig.model_type, StarterTowerConfig, exist_ok=True)
AutoModel.register(StarterTowerConfig, StarterTower, exist_ok=True)
