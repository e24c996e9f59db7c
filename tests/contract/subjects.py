"""One tiny random model of each family's real class, with two pictures, that the contract's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from families import FAMILIES
from PIL import Image

from grounding.attention import RowRequest
from grounding.attention.rows import TOLERANCE
from grounding.compat import decoder_attentions, last_logits_option
from grounding.models.base import VLM
from grounding.models.prepared import Prepared
from grounding.record_spec import RecordSpec

ALLOWED = TOLERANCE[torch.float32]
EXPRESSIONS = ("dog", "the red elephant left of the dog")
REFUSAL = "by cross-attention, where every key is of the picture"
QUESTIONS = ("where is the red dog on the left?", "where is it")
GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def greedy(model: Any) -> dict[str, Any]:
    """Options of three greedy steps."""
    return GREEDY | last_logits_option(model)


class Subject:
    """One family's model, and two prepared batches of it."""

    def __init__(self, name: str) -> None:
        self.name, self.family, self.model_type = name, FAMILIES[name], name.partition("/")[0]
        self.vlm = self.family.vlm(self.model_type)
        self.kernel = self.vlm.model.config._attn_implementation
        self.pictures = [noise(size, seed) for seed, size in enumerate(self.family.sizes)]
        self.batch = self.vlm.prepare(self.pictures, EXPRESSIONS)

    @property
    def pair(self) -> Prepared:
        """One prompt with two pictures; of a family that takes one, with the second alone."""
        several = self.vlm.takes_several
        return self.vlm.prepare([self.pictures if several else self.pictures[1:]], [EXPRESSIONS[1]])


@cache
def subject_of(name: str) -> Subject:
    return Subject(name)


@contextmanager
def eager(subject: Subject) -> Iterator[Any]:
    subject.vlm.model.set_attn_implementation("eager")
    try:
        yield subject.vlm.model
    finally:
        subject.vlm.model.set_attn_implementation(subject.kernel)


def full_attention(subject: Subject, prepared: Prepared) -> torch.Tensor:
    """[B, L, H, N, N]"""
    with eager(subject) as model:
        found = decoder_attentions(model(**prepared.inputs, output_attentions=True, use_cache=False))
    return torch.stack(of_layers(subject.vlm, found, subject.vlm.row_layers), dim=1)


def full_weights(subject: Subject, prepared: Prepared) -> list[torch.Tensor]:
    """Per element [L, H, N, K] over `TokenLayout.keys`."""
    if subject.family.weights is not None:
        with eager(subject):
            return subject.family.weights(subject.vlm, prepared)
    full = full_attention(subject, prepared)
    return [own[..., layout.keys.tolist()] for own, layout in zip(full, prepared.layouts, strict=True)]


def of_layers(vlm: VLM, attentions: tuple[torch.Tensor, ...], layers: tuple[int, ...]) -> list[torch.Tensor]:
    """Those of some layers, where a model returns those of all layers and not of the wanted kind alone."""
    return [attentions[layer] for layer in layers] if len(attentions) == vlm.layer_count else list(attentions)


def queries_of(prepared: Prepared) -> tuple[tuple[int, ...], ...]:
    """The last three positions of each element, and its first image cell or token."""
    firsts = (int((layout.cells if len(layout.cells) else layout.image)[0]) for layout in prepared.layouts)
    return tuple((first, *range(prepared.length - 3, prepared.length)) for first in firsts)


def request_of(subject: Subject, *, decode: bool = False) -> RowRequest:
    """These rows of all layers whose rows are maps."""
    return RowRequest(queries_of(subject.batch), decode=decode, spec=map_spec(subject))


def map_spec(subject: Subject) -> RecordSpec:
    return RecordSpec(layers=subject.vlm.map_layers, attention=subject.vlm.map_attention)
