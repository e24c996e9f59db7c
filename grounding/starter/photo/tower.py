"""The photo starter's vision tower: a frozen ImageNet backbone whose two last depths are concatenated per cell.

Features of stride 16 locate edges, those of stride 32 carry semantics. The coarse features are upsampled; a token is
coarse features, fine features, and sines and cosines of the cell's column and row. Importing this module registers the
class with transformers' auto classes, so that a LLaVA config can name it as its vision model.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from grounding.starter.model import plane_waves
from grounding.starter.photo.backbone import HEAD, LITE2, STEM, Backbone

_STRIDE = 16


class PhotoTowerConfig(PretrainedConfig):
    """Shape of the tower.

    Args:
        image_size: side of the square picture in pixels, a multiple of 32.
        pooling: cells of stride 16 averaged along each side into one token; 1 keeps all cells.
        stages: stages of the backbone; see `Backbone`.
        stem_size: channels of its first convolution.
        head_size: channels of its last convolution.
        wave_size: width of the position encoding of column and row, a multiple of 4.
        coarse_scale: factor on the features of stride 32, which equalises the variances of both depths.
        fine_scale: factor on the features of stride 16.
    """

    model_type = "grounding_photo_tower"
    base_config_key = "vision_config"

    def __init__(
        self,
        image_size: int = 384,
        pooling: int = 1,
        stages: tuple[tuple[int, ...], ...] = LITE2,
        stem_size: int = STEM,
        head_size: int = HEAD,
        wave_size: int = 32,
        coarse_scale: float = 1.0,
        fine_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if image_size % 32 or (image_size // _STRIDE) % pooling:
            raise ValueError(
                f"a picture of {image_size} px has no whole cells of {pooling * _STRIDE} px: expected a multiple of 32 "
                "px and a pooling that divides its sixteenth"
            )
        self.image_size = image_size
        self.pooling = pooling
        self.patch_size = _STRIDE * pooling
        self.stages = tuple(tuple(stage) for stage in stages)
        self.stem_size = stem_size
        self.head_size = head_size
        self.wave_size = wave_size
        self.coarse_scale = coarse_scale
        self.fine_scale = fine_scale
        self.hidden_size = head_size + self._fine_size() + wave_size
        kwargs.pop("hidden_size", None)
        kwargs.pop("patch_size", None)
        super().__init__(**kwargs)

    def _fine_size(self) -> int:
        last_halving = max(index for index, stage in enumerate(self.stages) if stage[2] == 2)
        return self.stages[last_halving - 1][4]

    @property
    def cells(self) -> int:
        """Tokens along each side."""
        return self.image_size // self.patch_size


class PhotoTower(PreTrainedModel):
    """Encode pictures into one token per cell, row by row, without a class token."""

    config_class = PhotoTowerConfig
    main_input_name = "pixel_values"
    input_modalities: ClassVar[tuple[str, ...]] = ("image",)
    _supports_sdpa = True  # it has no attention
    _no_split_modules: ClassVar[list[str]] = ["Backbone"]

    def __init__(self, config: PhotoTowerConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config.stages, config.stem_size, config.head_size)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pictures.

        Args:
            pixel_values: [B, 3, image_size, image_size], in [-1, 1] as from the processor.
            kwargs: arguments of other towers, ignored; the tokens are always returned as the only hidden state.

        Returns:
            `last_hidden_state` [B, cells * cells, hidden_size].
        """
        tokens = self.join(*self.backbone(pixel_values.to(self.dtype)))
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=tokens.mean(dim=1), hidden_states=(tokens,)
        )

    def join(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Concatenate the backbone's two depths into one token per cell.

        Args:
            fine: [B, C, S / 16, S / 16].
            coarse: [B, D, S / 32, S / 32].

        Returns:
            [B, cells * cells, hidden_size]: coarse features, fine features, position encoding.
        """
        cells = self.config.cells
        fine = F.avg_pool2d(fine, self.config.pooling) if self.config.pooling > 1 else fine
        coarse = F.interpolate(coarse, size=(cells, cells), mode="bilinear", align_corners=False)
        waves = plane_waves(cells, self.config.wave_size).to(fine)
        seen = torch.cat([coarse * self.config.coarse_scale, fine * self.config.fine_scale], dim=1)
        tokens = seen.flatten(2).transpose(1, 2)  # [B, cells * cells, D + C]
        return torch.cat([tokens, waves.expand(len(tokens), -1, -1)], dim=-1)


AutoConfig.register(PhotoTowerConfig.model_type, PhotoTowerConfig, exist_ok=True)
AutoModel.register(PhotoTowerConfig, PhotoTower, exist_ok=True)
