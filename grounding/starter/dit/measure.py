"""Measure a diffusion transformer on scenes outside its training: does it use its text, and where does it look?

Both are measured at given noise levels, with the same noise for every figure. Pointing reads the attention from image
to text tokens, normalised over the text tokens of each head; no such map is a target in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grounding.scenes.drawing import SHAPES, Scene, draw_scene
from grounding.scenes.language import SceneTexts
from grounding.starter.dit.captions import long_captions
from grounding.starter.dit.data import CONFIG, SHORT_TOKENS, coverage, tokens
from grounding.starter.dit.model import CELLS
from grounding.starter.dit.stages import TextDenoiser, mix, mixed, pack, to_model
from grounding.starter.dit.words import MAX_TOKENS
from grounding.text.kinds import kind_of
from grounding.types import WordKind

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
HELD_FIRST, HELD_SCENES = 900_000_000, 128
_BATCH = 128


@dataclass(frozen=True)
class HeldOut:
    """N referring expressions with their scenes.

    Attributes:
        latents: normalised [N, C, h, w].
        coverage: [N, cells], share of an image token's pixels that show any object.
        named: the same for the named object.
        ids: T5 token ids [N, SHORT_TOKENS] of the expression.
        content: bool [N, SHORT_TOKENS], words that are not stop words.
        head: bool [N, SHORT_TOKENS], the noun of the named object with the words before it, without stop words.
        hit: bool [N, cells], whether the middle of an image token lies on the named object.
        first: index of the first expression of each scene, int64 [S].
        long: T5 token ids [S, MAX_TOKENS] of a long caption of each scene.
    """

    latents: Tensor
    coverage: Tensor
    named: Tensor
    ids: Tensor
    content: Tensor
    head: Tensor
    hit: Tensor
    first: Tensor
    long: Tensor


@dataclass(frozen=True)
class TextUse:
    """Figures at one noise level.

    Attributes:
        scenes: number of scenes.
        expressions: number of their referring expressions.
        level: the noise level.
        right: flow-matching loss over the named object with the right expression.
        shuffled: the same with the expressions of other scenes.
        empty: the same with the empty caption.
        long_right: the loss over all objects with the right long caption.
        long_shuffled: the same with the long captions of other scenes.
        pointing: share of expressions whose map (sum over content words, mean over blocks and heads) is highest on the
            named object.
        head: the same with the words of the head noun phrase.
        head_by_block: the latter from each block alone, double blocks first.
    """

    scenes: int
    expressions: int
    level: float
    right: float
    shuffled: float
    empty: float
    long_right: float
    long_shuffled: float
    pointing: float
    head: float
    head_by_block: tuple[float, ...]


def held_out(vae: AutoencoderKL, scenes: int = HELD_SCENES, first: int = HELD_FIRST) -> HeldOut:
    """Draw scenes and encode them on the autoencoder's device."""
    drawn = [draw_scene(first + index, CONFIG) for index in range(scenes)]
    device = vae.device
    pixels = to_model(np.stack([np.asarray(scene.image) for scene in drawn]), device)
    with torch.no_grad(), mixed(device):
        means = vae.encode(pixels).latent_dist.mean.float()
    latents = (means - vae.config.shift_factor) * vae.config.scaling_factor
    asked = [(row, expression) for row, scene in enumerate(drawn) for expression in SceneTexts(scene).expressions]
    texts = [expression.text for _, expression in asked]
    rows = torch.tensor([row for row, _ in asked], device=device)
    hits = [_hit(drawn[row], expression.target_index) for row, expression in asked]
    starts = [index for index, (row, _) in enumerate(asked) if index == 0 or asked[index - 1][0] != row]
    described = [drawn[asked[index][0]] for index in starts]
    long = [long_captions(scene.objects, np.random.default_rng(scene.seed))[0] for scene in described]
    objects = [coverage(scene) for scene in drawn]
    covered = torch.tensor(np.stack([one.sum(axis=0) for one in objects]), dtype=torch.float32, device=device)
    named = np.stack([objects[row][expression.target_index] for row, expression in asked])
    return HeldOut(
        latents[rows],
        covered.flatten(1)[rows],
        torch.tensor(named, dtype=torch.float32, device=device).flatten(1),
        torch.from_numpy(tokens(texts, SHORT_TOKENS)).long().to(device),
        _words(texts, head=False).to(device),
        _words(texts, head=True).to(device),
        torch.tensor(np.stack(hits)).to(device),
        torch.tensor(starts, device=device),
        torch.from_numpy(tokens(long, MAX_TOKENS)).long().to(device),
    )


@torch.no_grad()
def text_use(model: TextDenoiser, held: HeldOut, levels: Sequence[float] = LEVELS, seed: int = 0) -> list[TextUse]:
    """Measure loss and pointing at every noise level."""
    return [_at(model, held, level, seed) for level in levels]


def _at(model: TextDenoiser, held: HeldOut, level: float, seed: int) -> TextUse:
    count, device = len(held.ids), held.ids.device
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(held.latents.shape, generator=random).to(device)
    hits, heads = [], []

    def loss(rows: Tensor, ids: Tensor, where: Tensor, look: bool = False) -> float:
        total = torch.zeros(2)
        for part, text in zip(rows.split(_BATCH), ids.split(_BATCH), strict=True):
            levels = torch.full((len(part),), level, device=device)
            with image_to_text(text.shape[1]) as maps:
                velocity = model(mix(held.latents[part], noise[part], levels), levels, text)
            error = (velocity.float() - pack(noise[part] - held.latents[part])).square().mean(dim=-1)
            weight = where[part]
            total += torch.tensor([float((error * weight).sum()), float(weight.sum())])
            if look:
                blocks = torch.stack(maps)  # [blocks, B, cells, T]
                overall = (blocks * held.content[part, None, :]).sum(dim=-1).mean(dim=0, keepdim=True)
                hits.append(_pointed(overall, held.hit[part]))
                by_block = (blocks * held.head[part, None, :]).sum(dim=-1)
                heads.append(_pointed(torch.cat([by_block, by_block.mean(0, keepdim=True)]), held.hit[part]))
        return float(total[0] / total[1])

    everything = torch.arange(count, device=device)
    # Expressions are sorted by scene; a shift by half the list gives every one the text of another scene.
    right = loss(everything, held.ids, held.named, look=True)
    shuffled = loss(everything, held.ids.roll(count // 2, dims=0), held.named)
    empty = loss(everything, model.empty(held.ids), held.named)
    long_right = loss(held.first, held.long, held.coverage)
    long_shuffled = loss(held.first, held.long.roll(1, dims=0), held.coverage)
    head = torch.cat(heads, dim=1).float().mean(dim=1).tolist()
    pointing = float(torch.cat(hits, dim=1).float().mean())
    return TextUse(
        len(held.first),
        count,
        level,
        right,
        shuffled,
        empty,
        long_right,
        long_shuffled,
        pointing,
        head[-1],
        tuple(head[:-1]),
    )


def _pointed(maps: Tensor, hit: Tensor) -> Tensor:
    """Whether the highest cell of each map [K, B, cells] is a hit [B, cells]; bool [K, B]."""
    return hit[torch.arange(len(hit)), maps.argmax(dim=-1)]


@contextmanager
def image_to_text(length: int) -> Iterator[list[Tensor]]:
    """Record each block's attention from image to text tokens, softmax over the text tokens, mean over heads.

    Args:
        length: number of text tokens, which come first in the sequence.

    Yields:
        A list that receives one tensor [B, cells, length] per block.
    """
    from diffusers.models.transformers import transformer_flux

    maps: list[Tensor] = []
    plain = transformer_flux.dispatch_attention_fn

    def recorded(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        asked, offered = query[:, length:].float(), key[:, :length].float()
        logits = torch.einsum("bxhd,bthd->bhxt", asked, offered) / query.shape[-1] ** 0.5
        maps.append(logits.softmax(dim=-1).mean(dim=1))
        return plain(query, key, value, **options)

    transformer_flux.dispatch_attention_fn = recorded
    try:
        yield maps
    finally:
        transformer_flux.dispatch_attention_fn = plain


def _hit(scene: Scene, target: int) -> np.ndarray:
    part = scene.image.width // CELLS
    middle = np.arange(CELLS) * part + part // 2
    return scene.objects[target].mask[np.ix_(middle, middle)].reshape(-1)


def _words(texts: Sequence[str], *, head: bool) -> Tensor:
    """Mark content words, of the whole text or up to its first shape; every word is one token."""
    marks = torch.zeros(len(texts), SHORT_TOKENS, dtype=torch.bool)
    for row, text in enumerate(texts):
        for column, word in enumerate(text.split()[:SHORT_TOKENS]):
            marks[row, column] = kind_of(word) is WordKind.CONTENT
            if head and word in SHAPES:
                break
    return marks
