"""Model families under contract, each with a left-padded batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grounding.models.tiny import tiny_llava, tiny_llava_gqa, tiny_qwen2_5_vl

BUILDERS: dict[str, Callable[..., Any]] = {
    "llava": tiny_llava,
    "llava_gqa": tiny_llava_gqa,
    "qwen2_5_vl": tiny_qwen2_5_vl,
}


@dataclass(frozen=True)
class Case:
    """One family, a left-padded batch of two pictures, and the same elements alone."""

    name: str
    model: Any
    eager: Any  # same weights, eager attention
    batch: Any
    alone: tuple[Any, Any]

    @property
    def length(self) -> int:
        return int(self.batch["input_ids"].shape[1])

    @property
    def padding(self) -> tuple[int, ...]:
        return tuple((self.batch["attention_mask"] == 0).sum(dim=1).tolist())

    @property
    def queries(self) -> tuple[tuple[int, ...], ...]:
        """Ragged: three rows of the first element, two of the second."""
        n = self.length
        return ((n - 1, n - 4, self.padding[0]), (n - 1, n - 2))
