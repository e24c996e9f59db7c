"""Rank candidates: a weighted sum of features of mask and map, and the expression's spatial words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grounding.candidates.base import Candidate, RankedCandidate
from grounding.candidates.features import FEATURES, measure
from grounding.candidates.places import places
from grounding.candidates.rule import CandidateRule
from grounding.text.order import Order
from grounding.types import FloatArray, Heatmap

_REASONS = 3  # features named in a candidate's reasons


def rank(
    candidates: Sequence[Candidate], heatmap: Heatmap, rule: CandidateRule, order: Order | None = None
) -> tuple[RankedCandidate, ...]:
    """Rank candidates.

    Args:
        candidates: at least one.
        heatmap: the map of the words.
        rule: the weights.
        order: what the expression says about which one; None or an empty one says nothing.

    Returns:
        All of them, best first; among equal scores the one of the higher estimate.
    """
    return rank_measured(candidates, measure(candidates, heatmap), rule, order)


def rank_measured(
    candidates: Sequence[Candidate], features: FloatArray, rule: CandidateRule, order: Order | None = None
) -> tuple[RankedCandidate, ...]:
    """Rank candidates whose features are known; see `rank`.

    Args:
        candidates: at least one.
        features: [N, len(FEATURES)] as `grounding.candidates.features.measure` returns them.
        rule: the weights.
        order: see `rank`.
    """
    masks = [one.packed for one in candidates]
    plain = features @ rule.weights.array()
    fit = places(order, masks, plain, rule.margin) if order else None
    scores = plain if fit is None else plain + rule.place * (fit - 1)
    mean = features.mean(axis=0)
    ranked = [
        RankedCandidate(
            candidate=one,
            features=dict(zip(FEATURES, map(float, row), strict=True)),
            place=None if fit is None else float(fit[index]),
            score=float(scores[index]),
            why=_why(row - mean, row, rule, None if fit is None else float(fit[index]), order),
        )
        for index, (one, row) in enumerate(zip(candidates, features, strict=True))
    ]
    return tuple(sorted(ranked, key=lambda one: (-one.score, -one.candidate.score)))


def _why(above: FloatArray, row: FloatArray, rule: CandidateRule, fit: float | None, order: Order | None) -> str:
    """The features that move a candidate most from the mean of all, and how it fits the spatial words."""
    moved = above * rule.weights.array()
    strongest = [index for index in np.argsort(-np.abs(moved), kind="stable")[:_REASONS] if abs(moved[index]) > 0.01]
    parts = [f"{FEATURES[index].replace('_', ' ')} {row[index]:.2f} ({moved[index]:+.2f})" for index in strongest]
    if fit is not None:
        parts.append(f"fits '{order}' by {fit:.2f} ({rule.place * (fit - 1):+.2f})")
    return "; ".join(parts) or "no feature tells it from the others"
