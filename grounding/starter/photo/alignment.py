"""Align projected cells with words by weak supervision: image-level labels, no boxes and no masks.

As in LLaVA's first stage the projector is aligned with the words. The labels of a photo are the words of its captions
and the classes that it shows. The loss has four terms:

- presence: cell-word similarity pooled over the cells classifies whether the photo has the word (multiple-instance
  learning with log-sum-exp pooling; Pinheiro & Collobert, 2015);
- attended: the same classification from a head's attention to the picture against its attention to the preceding text,
  so that later layers can read presence from a word's attention;
- rivalry: the cells that a class selects should be more similar to that class than to the photo's other classes (the
  contrast of Gupta et al., 2020, within a photo);
- evidence: a cell for which the backbone's classifier predicts a word that the photo has should be similar to the word.

Notes:
    The combination of terms is our own. Pooling is close to the mean and biases start at the concepts' log odds;
    pooling close to the maximum, and equal initial biases, generalised far worse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grounding.photos import Photo, coco_classes
from grounding.starter.packing import OPENING
from grounding.starter.photo.classes import words_of_classes
from grounding.starter.photo.words import is_thing, split

_SHARPNESS = 12.0  # inverse temperature of a class's softmax over cells, on cosine similarities
_POOLING = 1.0  # inverse temperature of the log-sum-exp over cells: close to their mean
_PRESENCE_SCALE = 40.0  # initial factor from similarity to log odds
_MIN_PHOTOS = 8
_PRESENCE, _RIVALRY, _EVIDENCE = 6.0, 0.5, 1.0
_CERTAIN = 0.02  # evidence below this is noise


@dataclass(frozen=True)
class Concepts:
    """Concepts with a presence label: the classes first, then words of the captions.

    Attributes:
        names: K names; a class name may have two words.
        classes: number of classes among them.
        balance: float32 [K], square root of the odds that a photo has the concept; weighs photos with and without it.
    """

    names: tuple[str, ...]
    classes: int
    balance: np.ndarray

    @property
    def prior(self) -> np.ndarray:
        """Log odds that a photo has the concept, float32 [K]."""
        return 2 * np.log(self.balance)

    def present(self, photo: Photo) -> np.ndarray:
        """Return the presence labels of a photo, bool [K]."""
        said = {word for caption in photo.captions for word in split(caption)}
        shown = set(photo.objects)
        return np.array(
            [n in shown for n in self.names[: self.classes]] + [n in said for n in self.names[self.classes :]]
        )


def concepts_of(photos: Sequence[Photo], known: Iterable[str], min_photos: int = _MIN_PHOTOS) -> Concepts:
    """Collect the concepts of the training photos.

    Args:
        photos: the training photos.
        known: the vocabulary.
        min_photos: smallest number of photos for a caption's word to become a concept.
    """
    classes = coco_classes()
    words = set(known)
    counts = Counter(word for photo in photos for word in {w for c in photo.captions for w in split(c)})
    chosen = sorted(w for w, n in counts.items() if n >= min_photos and w in words and is_thing(w) and w not in classes)
    draft = Concepts((*classes, *chosen), len(classes), np.ones(0))
    share = np.mean([draft.present(photo) for photo in photos], axis=0)
    odds = np.clip(share, 1 / len(photos), None) / np.clip(1 - share, 1 / len(photos), None)
    return Concepts(draft.names, draft.classes, np.sqrt(odds).astype(np.float32))


@dataclass(frozen=True)
class Look:
    """Keys and queries of some heads of the first layer, with rotary positions.

    Attributes:
        cells: [B, cells, heads, d], keys of the picture.
        opening: [2, heads, d], keys of the text before the picture.
        words: [V, heads, d], queries of words after the picture.
    """

    cells: Tensor
    opening: Tensor
    words: Tensor


class Alignment(nn.Module):
    """The loss terms; the parameters are used in training only.

    Args:
        concepts: concepts with a presence label.
        ids: token id of each word.
        classifier: weight [1000, D] and bias [1000] of the backbone's classifier over coarse features; None disables
            the evidence term.
    """

    def __init__(self, concepts: Concepts, ids: dict[str, int], classifier: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.classes = concepts.classes
        self.presence = Odds(torch.from_numpy(concepts.prior), _PRESENCE_SCALE)
        self.per_cell = Odds(torch.full((len(concepts.names),), -3.0), 10.0)
        mean = torch.zeros(len(concepts.names), max(ids.values()) + 1)
        for row, name in zip(mean, concepts.names, strict=True):
            row[[ids[word] for word in name.split()]] = 1 / len(name.split())
        self.tokens, self.mean = _columns(mean)
        self.opening = [ids[word] for word in OPENING.split()]
        self.balance = torch.from_numpy(concepts.balance)
        self.classifier = None
        if classifier is not None:
            self.classifier = _grouped(classifier, concepts.names)

    def forward(
        self, projected: Tensor, embeddings: Tensor, evidence: Tensor | None, present: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of presence, rivalry and evidence, and the three terms.

        Args:
            projected: [B, cells, width].
            embeddings: [V, width], word embeddings.
            evidence: output of `evidence` for these photos.
            present: bool [B, K].
        """
        names = F.normalize(self.mean @ embeddings[self.tokens], dim=-1)  # [K, width]
        alike = F.normalize(projected, dim=-1) @ names.T  # [B, cells, K], cosines
        overall = (torch.logsumexp(_POOLING * alike, dim=1) - np.log(alike.shape[1])) / _POOLING
        presence = self._told(self.presence(overall), present)
        rivalry = self._rivalry(alike[..., : self.classes], present[:, : self.classes])
        named = self._named(alike, evidence)
        parts = {"presence": presence.item(), "rivalry": rivalry.item(), "evidence": named.item()}
        return _PRESENCE * presence + _RIVALRY * rivalry + _EVIDENCE * named, parts

    def attended(self, look: Look, present: Tensor) -> Tensor:
        """Return the loss of classifying presence by the attention to the picture.

        The log odds of the picture against the preceding text, averaged over heads, are the logits. Later layers can
        then read presence from the attention.

        Args:
            look: keys and queries of the heads.
            present: bool [B, K].
        """
        return self._told(self.picture_odds(look).mean(dim=-1), present)

    def picture_odds(self, look: Look) -> Tensor:
        """Return the log odds of a word's attention to the picture against the preceding text, [B, K, heads].

        Notes:
            Attention to the word itself is left out; with it, the language model learned to answer yes or no later.
        """
        asked = torch.einsum("kt,thd->khd", self.mean, look.words[self.tokens]) / look.words.shape[-1] ** 0.5
        there = torch.einsum("khd,bnhd->bkhn", asked, look.cells).logsumexp(dim=-1)
        before = torch.einsum("khd,nhd->khn", asked, look.opening).logsumexp(dim=-1)
        return there - before

    def _told(self, logits: Tensor, present: Tensor) -> Tensor:
        truth = present.float()
        weight = truth / self.balance.clamp(min=0.05).sqrt() + (1 - truth) * self.balance.sqrt()
        return F.binary_cross_entropy_with_logits(logits, truth, weight)

    def evidence(self, coarse: Tensor, present: Tensor, side: int) -> Tensor | None:
        """Return the backbone classifier's probabilities per cell, for concepts that the photo has.

        Args:
            coarse: [B, D, h, w], the backbone's features of stride 32.
            present: bool [B, K].
            side: cells along each side.

        Returns:
            float [B, side * side, M] in [0, 1], 0 below a threshold; None without a classifier.
        """
        if self.classifier is None:
            return None
        weight, bias, groups, named = self.classifier
        with torch.no_grad():
            cells = coarse.flatten(2).transpose(1, 2) @ weight.T + bias  # [B, h * w, 1000]
            there = (cells.softmax(dim=-1) @ groups) * present[:, None, named]  # [B, h * w, M]
            maps = there.transpose(1, 2).unflatten(-1, coarse.shape[2:])
            maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
            target = maps.flatten(2).transpose(1, 2).clamp(max=1.0)
            return torch.where(target > _CERTAIN, target, 0.0)

    def _rivalry(self, alike: Tensor, present: Tensor) -> Tensor:
        chosen = (_SHARPNESS * alike).softmax(dim=1)  # [B, cells, C], the cells that each class selects
        met = chosen.transpose(1, 2) @ alike  # [B, C, C], their similarity to every class
        logits = (_SHARPNESS * met).masked_fill(~present[:, None, :], float("-inf"))
        rows = present & (present.sum(dim=1, keepdim=True) > 1)
        if not rows.any():
            return alike.new_zeros(())
        itself = torch.arange(alike.shape[-1]).expand_as(present)
        return F.cross_entropy(logits[rows], itself[rows])

    def _named(self, alike: Tensor, evidence: Tensor | None) -> Tensor:
        if self.classifier is None or evidence is None:
            return alike.new_zeros(())
        named = self.classifier[-1]
        logits = self.per_cell(alike[..., named], named)
        asked = (evidence.amax(dim=1) > 0.2)[:, None].expand_as(logits)  # words with evidence in some cell
        if not asked.any():
            return alike.new_zeros(())
        return F.binary_cross_entropy_with_logits(logits[asked], evidence[asked])


class Odds(nn.Module):
    """Map similarities to log odds: a shared scale, and a bias per concept.

    Args:
        bias: [K], initial biases.
        scale: initial scale; its logarithm is learned.
    """

    def __init__(self, bias: Tensor, scale: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.clone())
        self.scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, alike: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Map [..., K] to log odds, or [..., M] for the chosen concepts."""
        return self.scale.exp() * alike + (self.bias if chosen is None else self.bias[chosen])


def _columns(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the nonzero columns, and the matrix of these columns."""
    used = mean.any(dim=0).nonzero().flatten()
    return used, mean[:, used]


def _grouped(classifier: tuple[Tensor, Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight, bias, the class-to-concept matrix [1000, M], and the indices of the M concepts."""
    weight, bias = classifier
    groups = torch.zeros(len(weight), len(names))
    index = {name: number for number, name in enumerate(names)}
    for row, words in zip(groups, words_of_classes(index), strict=True):
        row[[index[word] for word in words]] = 1
    named = groups.any(dim=0).nonzero().flatten()
    return weight, bias, groups[:, named], named
