"""The models on which recording and steering are tested in depth; `test_family_*.py` test every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grounding.models.base import VLM
from grounding.models.registry import family_class
from grounding.models.tiny import TinyModel, tiny_llava, tiny_llava_gqa, tiny_qwen2_5_vl

# A variant's name is its model type, a slash, and what differs.
BUILDERS: dict[str, Callable[..., TinyModel]] = {
    "llava": tiny_llava,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "llava/grouped-query": tiny_llava_gqa,
}


def build_vlm(name: str, build: Callable[..., TinyModel] | None = None) -> VLM:
    """The adapter of a case's family around a fresh model; `build` replaces the table's builder."""
    return family_class(name.partition("/")[0])(*(build or BUILDERS[name])())


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
