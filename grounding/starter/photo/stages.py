"""The two stages of training: projector and words are aligned, then the language model learns to talk about photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import rotate_half

from grounding.photos import Photo
from grounding.starter.dataset import batches
from grounding.starter.packing import OPENING, Packed, answer_loss, pack
from grounding.starter.photo.alignment import Alignment, Concepts, Look
from grounding.starter.photo.features import Levels
from grounding.starter.photo.tasks import dialogue, habits_of
from grounding.starter.photo.words import split

LENGTH = 300  # tokens of questions and answers about one photo
_ALIGNMENT, _ATTENDED = 1.0, 6.0
_YES, _NO = 6.0, 4.0  # where both count the same, photos held out of training get too many a no
_FLIPPED, _DROPPED = 0.5, 0.2  # share of mirrored photos, and of features set to nothing
_SIDES = frozenset(("left", "right"))
_WORD_OFFSET = 3  # positions from the last cell to a word that is asked about: "describe the dog ."


@dataclass(frozen=True)
class Album:
    """The training photos with everything that batches are made of.

    Attributes:
        photos: N photos.
        levels: their features.
        concepts: what presence is known of.
        present: bool [N, K].
        tokenizer: of the vocabulary.
    """

    photos: tuple[Photo, ...]
    levels: Levels
    concepts: Concepts
    present: np.ndarray
    tokenizer: PreTrainedTokenizerFast

    def encoder(self) -> Callable[[str], list[int]]:
        """Text to token ids; words outside the vocabulary become `<unk>`."""
        ids, unknown = self.tokenizer.get_vocab(), self.tokenizer.unk_token_id
        return lambda text: [ids.get(word, unknown) for word in split(text)]

    def answer_weights(self) -> Tensor:
        """float32 [V]: a yes or no, the one word of its answer, counts as much as several words of a caption."""
        weights, ids = torch.ones(len(self.tokenizer)), self.tokenizer.get_vocab()
        weights[ids["yes"]], weights[ids["no"]] = _YES, _NO
        return weights


@dataclass(frozen=True)
class Batch:
    """B photos, and in the second stage what is asked about them.

    Attributes:
        fine: float32 [B, C, S / 16, S / 16].
        coarse: float32 [B, D, S / 32, S / 32].
        kept: float32 [B, 1, D + C], 0 for the features of a photo that are hidden in this batch.
        present: bool [B, K].
        packed: the questions; None in the first stage.
    """

    fine: Tensor
    coarse: Tensor
    kept: Tensor
    present: Tensor
    packed: Packed | None


def looks(album: Album, size: int, seed: int, start: int) -> Iterator[Batch]:
    """Endless batches for the first stage."""
    for step, rows in enumerate(batches(len(album.photos), size, seed, start), start=start):
        yield _batch(album, rows, np.random.default_rng((seed, step, 3)))


def talks(album: Album, cells: int, size: int, seed: int, start: int) -> Iterator[Batch]:
    """Endless batches for the second stage; questions and captions are drawn anew each time.

    Args:
        album: the photos.
        cells: tokens that stand for one photo.
        size: photos per batch.
        seed: of order, questions and mirroring.
        start: batches to skip, on resume.
    """
    encode, habits = album.encoder(), habits_of(album.photos)
    prefix = len(OPENING.split()) + cells
    for step, rows in enumerate(batches(len(album.photos), size, seed, start), start=start):
        rng = np.random.default_rng((seed, step, 7))
        dialogues = [dialogue(album.photos[row], habits, rng) for row in rows]
        # A mirrored photo must not be told left from right.
        keeps_side = np.array([any(_SIDES & set(split(f"{q} {a}")) for q, a in pairs) for pairs in dialogues])
        yield _batch(album, rows, rng, ~keeps_side, pack(dialogues, encode, cells, prefix + LENGTH))


def _batch(
    album: Album,
    rows: np.ndarray,
    rng: np.random.Generator,
    may_flip: np.ndarray | bool = True,
    packed: Packed | None = None,
) -> Batch:
    flipped = (rng.random(len(rows)) < _FLIPPED) & may_flip
    fine, coarse = album.levels.batch(rows, flipped)
    kept = rng.random((len(rows), 1, fine.shape[1] + coarse.shape[1]), dtype=np.float32) >= _DROPPED
    hidden = torch.from_numpy(kept).float() / (1 - _DROPPED)
    return Batch(fine, coarse, hidden, torch.from_numpy(album.present[rows]), packed)


class Reader(nn.Module):
    """Projector, word embeddings and language model over cached features, sharing their weights with the model.

    Args:
        model: the starter; its tower joins the features and stays frozen.
        alignment: the weak supervision.
        weight: [V], how much each word counts in an answer; all the same where None.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, alignment: Alignment, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self._weight = weight
        self.projector = model.model.multi_modal_projector
        self.language_model = model.model.language_model
        self.alignment = alignment
        self._join = model.model.vision_tower.join

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss and its parts; answers count only where the batch has questions."""
        with torch.no_grad():
            features = self._join(batch.fine, batch.coarse)
            features[..., : batch.kept.shape[-1]] *= batch.kept
        projected = self.projector(features)
        words = self.language_model.embed_tokens.weight
        evidence = self.alignment.evidence(batch.coarse, batch.present, round(projected.shape[1] ** 0.5))
        loss, figures = self.alignment(projected, words, evidence, batch.present)
        look = self._first_look(projected, words)
        seen, _ = self.alignment(look.cells.flatten(-2), look.words.flatten(-2), evidence, batch.present)
        attended = self.alignment.attended(look, batch.present)
        loss = loss + seen + _ATTENDED * attended
        figures["attended"] = attended.item()
        if batch.packed is None:
            return loss, figures
        answers, right = answer_loss(self.language_model, projected, batch.packed, self._weight)
        return answers + _ALIGNMENT * loss, {"answers": answers.item(), "right": right, **figures}

    def _first_look(self, projected: Tensor, words: Tensor) -> Look:
        """What the first layer's heads for likeness compare.

        There a word has read nothing yet, so its attention is known without running the model, and the same weak
        supervision that brings words and cells together brings those heads' attention to where the word is.
        """
        layer = self.language_model.layers[0]
        likeness = layer.self_attn.q_proj.out_features // 2  # the half that `attend_to_likeness` prepared
        first, cells = len(OPENING.split()), projected.shape[1]
        places = torch.arange(first + cells + _WORD_OFFSET, device=projected.device)[None]
        waves = self.language_model.rotary_emb(projected, places)  # cosines and sines, each [1, positions, head width]

        def turned(project: nn.Module, tokens: Tensor, where: slice) -> Tensor:
            vectors = project(layer.input_layernorm(tokens))[..., :likeness]
            return _turned(vectors, *(wave[:, where] for wave in waves))

        keys, queries = layer.self_attn.k_proj, layer.self_attn.q_proj
        return Look(
            cells=turned(keys, projected, slice(first, first + cells)),
            opening=turned(keys, words[None, self.alignment.opening], slice(first))[0],
            words=turned(queries, words[None], slice(-1, None))[0],
        )

    def aligned(self) -> nn.ModuleDict:
        """What the first stage trains: projector, words, and what the first layer's attention looks with."""
        layer = self.language_model.layers[0]
        return nn.ModuleDict(
            {
                "projector": self.projector,
                "words": self.language_model.embed_tokens,
                "alignment": self.alignment,
                "first_norm": layer.input_layernorm,
                "first_queries": layer.self_attn.q_proj,
                "first_keys": layer.self_attn.k_proj,
            }
        )


def _turned(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions on the heads' vectors [B, N, heads * width], waves [1, N or 1, width]; [B, N, heads, width]."""
    heads = vectors.unflatten(-1, (-1, cosine.shape[-1]))
    return heads * cosine[:, :, None] + rotate_half(heads) * sine[:, :, None]
