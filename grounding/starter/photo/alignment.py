"""Weak supervision of the projector: a word said of a photo should resemble some of its cells, and no cell of others.

As in LLaVA's first stage the projector is aligned with the words, here without any place being told: of each photo it
is known which words its captions hold and which classes it shows, as a whole. Four terms, all ours in their mix:

- presence: resemblance pooled over the cells tells photos with the word from photos without it (multiple-instance
  learning with log-sum-exp pooling; Pinheiro & Collobert, 2015). Pooling stays near the mean and biases start from the
  concepts' odds: near the maximum, and with biases alike, new photos were told apart far worse;
- attended: the same from a head's attention to the picture, against that to the text before it, so that the layers
  above can read from a word's attention whether the photo shows it;
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

from grounding.photos import Photo, coco_classes
from grounding.starter.packing import OPENING
from grounding.starter.photo.classes import words_of_classes
from grounding.starter.photo.words import is_thing, split

_SHARPNESS = 12.0  # of a class's choice of cells, in units of cosine
_POOLING = 1.0  # of the soft maximum over cells that tells presence: close to their mean
_PRESENCE_SCALE = 40.0  # of resemblance as log odds, where training starts
_MIN_PHOTOS = 8
_PRESENCE, _RIVALRY, _EVIDENCE = 6.0, 0.5, 1.0
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

    @property
    def prior(self) -> np.ndarray:
        """float32 [K], the log odds of meeting the concept."""
        return 2 * np.log(self.balance)

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
    odds = np.clip(share, 1 / len(photos), None) / np.clip(1 - share, 1 / len(photos), None)
    return Concepts(draft.names, draft.classes, np.sqrt(odds).astype(np.float32))


@dataclass(frozen=True)
class Look:
    """What some heads of the first layer compare, positions included.

    Attributes:
        cells: [B, cells, heads, d], keys of the picture.
        opening: [2, heads, d], keys of the text before it.
        words: [V, heads, d], queries of words asked about after it.
    """

    cells: Tensor
    opening: Tensor
    words: Tensor


class Alignment(nn.Module):
    """The terms; its few parameters exist during training only.

    Args:
        concepts: what presence is known of.
        ids: token id of each word.
        classifier: weight [1000, D] and bias [1000] of the backbone's classifier over coarse features; None leaves
            the evidence out.
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
        """Returns the loss of presence, rivalry and evidence, and these parts.

        Args:
            projected: [B, cells, width].
            embeddings: [V, width] of the words.
            evidence: what `evidence` says of these photos.
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
        """The loss of attention that falls on a picture where it does not show the word, or beside it where it does.

        The odds of the picture against the text before it, averaged over heads as logs, should be those of presence.
        The layers above can then read from where the attention went whether there was anything to see.

        Args:
            look: keys and queries of the heads.
            present: bool [B, K].
        """
        return self._told(self.picture_odds(look).mean(dim=-1), present)

    def picture_odds(self, look: Look) -> Tensor:
        """[B, K, heads], log odds of a word's attention to the picture against that to the text before it.

        The word itself, which heads for likeness look at most of all, is left out: in a run with it in the balance the
        language model had not begun to tell yes from no when in a run without it could.
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
        """What the backbone's classifier names in each cell, of what is said of the photo.

        Args:
            coarse: [B, D, h, w], the backbone's features of stride 32.
            present: bool [B, K].
            side: cells along each side.

        Returns:
            float [B, side * side, M] in [0, 1], 0 where the classifier is unsure; None without a classifier.
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
        chosen = (_SHARPNESS * alike).softmax(dim=1)  # [B, cells, C], where each class looks
        met = chosen.transpose(1, 2) @ alike  # [B, C, C], what it meets there
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
        asked = (evidence.amax(dim=1) > 0.2)[:, None].expand_as(logits)  # words the classifier is sure of somewhere
        if not asked.any():
            return alike.new_zeros(())
        return F.binary_cross_entropy_with_logits(logits[asked], evidence[asked])


class Odds(nn.Module):
    """Resemblance to log odds: a shared scale, and a bias for each concept.

    Args:
        bias: [K], where training starts.
        scale: likewise; it is learned as its logarithm.
    """

    def __init__(self, bias: Tensor, scale: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.clone())
        self.scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, alike: Tensor, chosen: Tensor | None = None) -> Tensor:
        """[..., K] to log odds, or [..., M] of the chosen concepts."""
        return self.scale.exp() * alike + (self.bias if chosen is None else self.bias[chosen])


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
