"""Train in two stages: align projector and words, then train the language model on questions about photos."""

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
_YES, _NO = 6.0, 4.0  # with equal weights, "no" is answered too often on held-out photos
_FLIPPED, _DROPPED = 0.5, 0.2  # share of mirrored photos, and of features that are dropped
_SIDES = frozenset(("left", "right"))
_WORD_OFFSET = 3  # positions from the last cell to the noun of a question: "describe the dog ."


@dataclass(frozen=True)
class Album:
    """The training photos and their features and labels.

    Attributes:
        photos: N photos.
        levels: their features.
        concepts: concepts with a presence label.
        present: bool [N, K], the labels.
        tokenizer: the starter's tokenizer.
    """

    photos: tuple[Photo, ...]
    levels: Levels
    concepts: Concepts
    present: np.ndarray
    tokenizer: PreTrainedTokenizerFast

    def encoder(self) -> Callable[[str], list[int]]:
        """Return a function from text to token ids; words outside the vocabulary become `<unk>`."""
        ids, unknown = self.tokenizer.get_vocab(), self.tokenizer.unk_token_id
        return lambda text: [ids.get(word, unknown) for word in split(text)]

    def answer_weights(self) -> Tensor:
        """Return the loss weight of each token, float32 [V]; "yes" and "no" weigh more than words of captions."""
        weights, ids = torch.ones(len(self.tokenizer)), self.tokenizer.get_vocab()
        weights[ids["yes"]], weights[ids["no"]] = _YES, _NO
        return weights


@dataclass(frozen=True)
class Batch:
    """Features of B photos, and in the second stage their questions.

    Attributes:
        fine: float32 [B, C, S / 16, S / 16].
        coarse: float32 [B, D, S / 32, S / 32].
        kept: float32 [B, 1, D + C], dropout factors of the features; 0 drops one.
        present: bool [B, K].
        packed: packed questions; None in the first stage.
    """

    fine: Tensor
    coarse: Tensor
    kept: Tensor
    present: Tensor
    packed: Packed | None


def looks(album: Album, size: int, seed: int, start: int) -> Iterator[Batch]:
    """Yield batches of the first stage without end."""
    for step, rows in enumerate(batches(len(album.photos), size, seed, start), start=start):
        yield _batch(album, rows, np.random.default_rng((seed, step, 3)))


def talks(album: Album, cells: int, size: int, seed: int, start: int) -> Iterator[Batch]:
    """Yield batches of the second stage without end; questions and captions are drawn anew each time.

    Args:
        album: the photos.
        cells: image tokens per photo.
        size: photos per batch.
        seed: seed of order, questions and mirroring.
        start: batches to skip, on resume.
    """
    encode, habits = album.encoder(), habits_of(album.photos)
    prefix = len(OPENING.split()) + cells
    for step, rows in enumerate(batches(len(album.photos), size, seed, start), start=start):
        rng = np.random.default_rng((seed, step, 7))
        dialogues = [dialogue(album.photos[row], habits, rng) for row in rows]
        # Photos whose texts say left or right are not mirrored.
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


class PhotoReader(nn.Module):
    """Projector, word embeddings and language model over cached features; the weights are those of the model.

    Args:
        model: the starter; its tower concatenates the features and stays frozen.
        alignment: the weak supervision.
        weight: [V], weight of each token in the loss of answers; None is uniform.
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
        """Return the loss and its terms; the loss of answers is included if the batch has questions."""
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
        """Return keys and queries of the first layer's heads with equal initial query and key matrices.

        The first layer's attention depends on the word embedding alone, so it is computed without running the model,
        and the weak supervision applies to it directly.
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
        """Return the modules of the first stage: projector, words, and the first layer's norm, queries and keys."""
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
    """Apply rotary positions: vectors [B, N, heads * width], waves [1, N or 1, width], result [B, N, heads, width]."""
    heads = vectors.unflatten(-1, (-1, cosine.shape[-1]))
    return heads * cosine[:, :, None] + rotate_half(heads) * sine[:, :, None]
