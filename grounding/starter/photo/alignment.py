"""Weak supervision of the projector: a word said of a photo should resemble some of its cells, and no cell of others.

As in LLaVA's first stage the projector is aligned with the words, here without any place being told: of each photo it
is known which words its captions hold and which classes it shows, as a whole. Three terms, all ours in their mix:

- presence: the largest resemblance over the cells, taken softly, tells photos with the word from photos without it
  (multiple-instance learning with log-sum-exp pooling; Pinheiro & Collobert, 2015);
- rivalry: the cells a class chooses should resemble that class more than the photo's other classes (the contrast of
  Gupta et al., 2020, within a photo);
- evidence: where the backbone's own classifier names a word in a cell, of a photo that the word is said of, the cell
  should resemble it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grounding.starter.photo.classes import words_of_classes
from grounding.starter.photo.data import Photo
from grounding.starter.photo.words import coco_classes, is_thing, split

_SHARPNESS = 12.0  # of the soft maximum over cells, in units of cosine
_MIN_PHOTOS = 8
_RIVALRY, _EVIDENCE = 0.5, 1.0
_CERTAIN = 0.02  # evidence below this is noise of a thousand classes


@dataclass(frozen=True)
class Concepts:
    """What presence is known of: the classes first, then words of the captions.

    Attributes:
        names: K names; a class's may have two words.
        classes: how many of them are classes.
        balance: float32 [K], how much less a photo with the concept weighs than one without it, the root of the odds
            of meeting it, so that rare concepts are not drowned and common ones learn from the few photos without.
    """

    names: tuple[str, ...]
    classes: int
    balance: np.ndarray

    def present(self, photo: Photo) -> np.ndarray:
        """bool [K], what is said of the photo as a whole."""
        said = {word for caption in photo.captions for word in split(caption)}
        shown = set(photo.objects)
        return np.array(
            [n in shown for n in self.names[: self.classes]] + [n in said for n in self.names[self.classes :]]
        )


def concepts_of(photos: Sequence[Photo], known: Iterable[str], min_photos: int = _MIN_PHOTOS) -> Concepts:
    """The concepts of the training photos.

    Args:
        photos: the training photos.
        known: the vocabulary.
        min_photos: a caption's word becomes a concept where so many photos have it.
    """
    classes = coco_classes()
    words = set(known)
    counts = Counter(word for photo in photos for word in {w for c in photo.captions for w in split(c)})
    chosen = sorted(w for w, n in counts.items() if n >= min_photos and w in words and is_thing(w) and w not in classes)
    draft = Concepts((*classes, *chosen), len(classes), np.ones(0))
    share = np.mean([draft.present(photo) for photo in photos], axis=0)
    balance = np.sqrt(np.clip(share, 1 / len(photos), None) / np.clip(1 - share, 1 / len(photos), None))
    return Concepts(draft.names, draft.classes, balance.astype(np.float32))


class Alignment(nn.Module):
    """The three terms; its few parameters exist during training only.

    Args:
        concepts: what presence is known of.
        ids: token id of each word.
        classifier: weight [1000, D] and bias [1000] of the backbone's classifier over coarse features; None leaves
            the evidence out.
    """

    def __init__(self, concepts: Concepts, ids: dict[str, int], classifier: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.classes = concepts.classes
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.full((len(concepts.names),), -3.0))
        mean = torch.zeros(len(concepts.names), max(ids.values()) + 1)
        for row, name in zip(mean, concepts.names, strict=True):
            row[[ids[word] for word in name.split()]] = 1 / len(name.split())
        self.tokens, self.mean = _columns(mean)
        self.balance = torch.from_numpy(concepts.balance)
        self.classifier = None
        if classifier is not None:
            self.classifier = _grouped(classifier, concepts.names)

    def forward(
        self, projected: Tensor, embeddings: Tensor, coarse: Tensor, present: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss and its three parts.

        Args:
            projected: [B, cells, width].
            embeddings: [V, width] of the words.
            coarse: [B, D, h, w], the backbone's features of stride 32.
            present: bool [B, K].
        """
        names = F.normalize(self.mean @ embeddings[self.tokens], dim=-1)  # [K, width]
        alike = F.normalize(projected, dim=-1) @ names.T  # [B, cells, K], cosines
        best = torch.logsumexp(_SHARPNESS * alike, dim=1) / _SHARPNESS - np.log(alike.shape[1]) / _SHARPNESS
        truth = present.float()
        weight = truth / self.balance.clamp(min=0.05).sqrt() + (1 - truth) * self.balance.sqrt()
        presence = F.binary_cross_entropy_with_logits(self.scale * best + self.bias, truth, weight)
        rivalry = self._rivalry(alike[..., : self.classes], present[:, : self.classes])
        evidence = self._evidence(alike, coarse, present)
        parts = {"presence": presence.item(), "rivalry": rivalry.item(), "evidence": evidence.item()}
        return presence + _RIVALRY * rivalry + _EVIDENCE * evidence, parts

    def _rivalry(self, alike: Tensor, present: Tensor) -> Tensor:
        chosen = (_SHARPNESS * alike).softmax(dim=1)  # [B, cells, C], where each class looks
        met = chosen.transpose(1, 2) @ alike  # [B, C, C], what it meets there
        logits = (_SHARPNESS * met).masked_fill(~present[:, None, :], float("-inf"))
        rows = present & (present.sum(dim=1, keepdim=True) > 1)
        if not rows.any():
            return alike.new_zeros(())
        itself = torch.arange(alike.shape[-1]).expand_as(present)
        return F.cross_entropy(logits[rows], itself[rows])

    def _evidence(self, alike: Tensor, coarse: Tensor, present: Tensor) -> Tensor:
        if self.classifier is None:
            return alike.new_zeros(())
        weight, bias, groups, named = self.classifier
        with torch.no_grad():
            cells = coarse.flatten(2).transpose(1, 2) @ weight.T + bias  # [B, h * w, 1000]
            there = (cells.softmax(dim=-1) @ groups) * present[:, None, named]  # [B, h * w, M]
            side = round(alike.shape[1] ** 0.5)
            maps = there.transpose(1, 2).unflatten(-1, coarse.shape[2:])
            target = (
                F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
            )
            target = torch.where(target > _CERTAIN, target, 0.0)
        logits = self.scale * alike[..., named] + self.bias[named]
        asked = (target.amax(dim=1) > 0.2)[:, None].expand_as(logits)  # words the classifier is sure of somewhere
        if not asked.any():
            return alike.new_zeros(())
        return F.binary_cross_entropy_with_logits(logits[asked], target[asked].clamp(max=1.0))


def _columns(mean: Tensor) -> tuple[Tensor, Tensor]:
    """The columns that are used, and the matrix without the others."""
    used = mean.any(dim=0).nonzero().flatten()
    return used, mean[:, used]


def _grouped(classifier: tuple[Tensor, Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classifier weight and bias, [1000, M] which class is which named concept, and the M concepts' numbers."""
    weight, bias = classifier
    groups = torch.zeros(len(weight), len(names))
    index = {name: number for number, name in enumerate(names)}
    for row, words in zip(groups, words_of_classes(index), strict=True):
        row[[index[word] for word in words]] = 1
    named = groups.any(dim=0).nonzero().flatten()
    return weight, bias, groups[:, named], named
