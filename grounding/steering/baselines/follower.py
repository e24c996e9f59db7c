"""A model that has read a batch of prompts and reads on, a few tokens at a time, with a key-value cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from grounding.compat import cache_argument, generation_positions


class Follower:
    """Reads prompts once, then their answers; rows can be chosen anew and the newest tokens forgotten.

    Args:
        model: a transformers model for image-text generation.
        inputs: [B, M] ids and mask padded on the left, and what else the model's forward takes.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor]) -> None:
        from transformers import DynamicCache

        self._model = model
        self._inputs = dict(inputs)
        self._mask = inputs["attention_mask"]
        self._positions = generation_positions(model, self._inputs)
        self._cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._cache_name = cache_argument(model)

    @property
    def can_forget(self) -> bool:
        """Whether the cache still holds all it has read; a sliding window drops what is behind it."""
        return not any(getattr(layer, "is_sliding", False) for layer in self._cache.layers)

    def read(self) -> Tensor:
        """Read the prompts: [B, V] logits of what comes next."""
        logits = self._run(self._inputs, self._positions)
        self._inputs = {}  # the pictures are not needed again
        self._positions = None if self._positions is None else self._positions[..., -1:]
        return logits

    def follow(self, tokens: Tensor) -> Tensor:
        """Read on: from [R, n] token ids to [R, V] logits of what comes next."""
        count = tokens.shape[1]
        self._mask = pad(self._mask, (0, count), value=1)
        positions = None
        if self._positions is not None:
            positions = self._positions + torch.arange(1, count + 1, device=self._positions.device)
            self._positions = positions[..., -1:]
        return self._run({"input_ids": tokens, "attention_mask": self._mask}, positions)

    def select(self, rows: Tensor) -> None:
        """Go on with the rows [R] of the batch, of which each may be taken several times or never."""
        self._cache.reorder_cache(rows)
        self._mask = self._mask.index_select(0, rows)
        if self._positions is not None:
            self._positions = self._positions.index_select(-2, rows)

    def forget(self, count: int) -> None:
        """Forget the newest `count` tokens of every answer."""
        if count:
            self._cache.crop(-count)
            self._mask = self._mask[:, :-count]
            self._positions = None if self._positions is None else self._positions - count

    def _run(self, inputs: Mapping[str, Tensor], positions: Tensor | None) -> Tensor:
        options: dict[str, Any] = {self._cache_name: self._cache, "use_cache": True, "logits_to_keep": 1}
        if positions is not None:
            options["position_ids"] = positions
        logits: Tensor = self._model(**inputs, **options).logits
        return logits[:, -1]
