"""Run a model on a batch of prompts and extend it by given tokens, with a key/value cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from grounding.compat import cache_argument, generation_positions, text_model


class Follower:
    """Read prompts once, then tokens of their answers; rows can be reselected and the newest tokens removed.

    Shape letters: B prompts, M their padded length, R rows, V vocabulary.

    Args:
        model: a transformers model for image-text generation.
        inputs: [B, M] ids and mask padded on the left, and other arguments of the model's forward.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor]) -> None:
        from transformers import DynamicCache

        self._model, self._text = model, text_model(model)
        self._inputs = dict(inputs)
        # Which keys of pictures the prompt's last token sees by cross-attention, as do the tokens behind it.
        self._seen = inputs["cross_attention_mask"][:, -1:] if "cross_attention_mask" in inputs else None
        self._mask = inputs["attention_mask"]
        self._positions = generation_positions(model, self._inputs)
        self._cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._cache_name = cache_argument(self._text)

    @property
    def can_forget(self) -> bool:
        """Whether tokens can be removed: every layer's cache holds the keys of all positions and no others.

        A sliding window drops earlier ones, and a layer of cross-attention holds those of pictures.
        """
        return self._seen is None and not any(getattr(layer, "is_sliding", False) for layer in self._cache.layers)

    def read(self) -> Tensor:
        """Read the prompts; return [B, V] logits of the next token."""
        logits = self._run(self._inputs, self._positions)
        self._inputs = {}  # the pixels are not needed again
        self._positions = None if self._positions is None else self._positions[..., -1:]
        return logits

    def follow(self, tokens: Tensor) -> Tensor:
        """Append [R, n] token ids; return [R, V] logits of the next token."""
        count = tokens.shape[1]
        self._mask = pad(self._mask, (0, count), value=1)
        positions = None
        if self._positions is not None:
            positions = self._positions + torch.arange(1, count + 1, device=self._positions.device)
            self._positions = positions[..., -1:]
        inputs = {"input_ids": tokens, "attention_mask": self._mask}
        if self._seen is not None:
            inputs["cross_attention_mask"] = self._seen.expand(-1, count, -1, -1)
        return self._run(inputs, positions)

    def select(self, rows: Tensor) -> None:
        """Replace the batch by rows of it.

        Args:
            rows: [R] int64 indices; a row may occur several times or not at all.
        """
        self._cache.reorder_cache(rows)
        self._mask = self._mask.index_select(0, rows)
        self._seen = None if self._seen is None else self._seen.index_select(0, rows)
        if self._positions is not None:
            self._positions = self._positions.index_select(-2, rows)

    def forget(self, count: int) -> None:
        """Remove the newest `count` tokens of every row."""
        if count:
            self._cache.crop(-count)
            self._mask = self._mask[:, :-count]
            self._positions = None if self._positions is None else self._positions - count

    def _run(self, inputs: Mapping[str, Tensor], positions: Tensor | None) -> Tensor:
        options: dict[str, Any] = {self._cache_name: self._cache, "use_cache": True, "logits_to_keep": 1}
        if positions is not None:
            options["position_ids"] = positions
        model = self._model if "pixel_values" in inputs else self._text
        logits: Tensor = model(**inputs, **options).logits
        return logits[:, -1]
