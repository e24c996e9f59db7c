"""Cut the picture in two by its features, with the map as the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import eigsh

from grounding.errors import MethodError
from grounding.maps.base import WORD_TO_IMAGE, Part, Stage
from grounding.maps.refine.affinity import Float64, cell_likeness
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, StageReport

_DENSE = 1500  # cells up to which all eigenvectors are computed


@dataclass(frozen=True)
class BiasedCut(Stage):
    """Weigh each map by a normalised cut of the cells that is biased towards it, [..., K] -> [..., K].

    TokenCut (CVPR 2022, arXiv 2202.11539) cuts the graph of a ViT's cells, whose edges are 1 where the cosine of the
    features is above `tau` and nearly 0 elsewhere, by the eigenvector of the second smallest eigenvalue of
    (D - W) y = lambda D y, at its mean. That cut knows no words. A biased cut (Maji, Vishnoi and Malik, CVPR 2011,
    theorem 1) is y = sum_i u_i (u_i^T D s) / (lambda_i - gamma) over the eigenvectors but the first, for a seed s, here
    the map: the cut that is nearest to what the words look at.

    Attributes:
        tau: cosine from which two cells are joined, in (-1, 1).
        vectors: eigenvectors that are used, >= 1; 1 is TokenCut's own cut, turned to the seed's side.
        gamma: the bias, as a share of the second smallest eigenvalue in [0, 1): towards 1 is the plain cut.
        keep: `weight` multiplies the map by the cut's values above its mean, scaled to at most 1; `cut` takes them as
            the map.
        centre: take the cells' mean feature off first.

    Notes:
        Features of the last layer instead of its keys, the mean as the threshold of a biased cut, multiplying the map,
        and the numbers but `tau` are our choices. A map without a cut towards it stays. A contrast comes before it.
    """

    name: ClassVar[str] = "refine-cut"
    spends: ClassVar[frozenset[Part]] = frozenset({"background"})
    requires: ClassVar[frozenset[Part]] = frozenset()
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    tau: float = 0.2
    vectors: int = 8
    gamma: float = 0.0
    keep: Literal["weight", "cut"] = "weight"
    centre: bool = True

    def __post_init__(self) -> None:
        if not -1 < self.tau < 1 or self.vectors < 1 or not 0 <= self.gamma < 1:
            raise MethodError("stage 'refine-cut' needs tau in (-1, 1), vectors >= 1 and gamma in [0, 1)")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The features."""
        return RecordSpec(features=True)

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Refine the maps, and drop a background that no contrast has used."""
        return self.apply(maps)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Weigh the maps by their cuts.

        Raises:
            MethodError: the features were not recorded.
        """
        columns, cosines = cell_likeness(maps, self.name, centre=self.centre)
        degree, values, vectors = _eigenvectors(np.where(cosines > self.tau, 1.0, _APART), self.vectors)
        start = maps.values[..., columns].astype(np.float64)
        seeds = start.reshape(-1, len(columns))
        seeds = seeds - (seeds @ degree / degree.sum())[:, None]
        weights = seeds * degree @ vectors / (values - self.gamma * values[0] + _FLAT)
        cut = weights @ vectors.T
        side = np.maximum(cut - cut.mean(axis=1, keepdims=True), 0)
        highest = side.max(axis=1, keepdims=True)
        side = np.divide(side, highest, out=np.ones_like(side), where=highest > 0).reshape(start.shape)
        kept = side if self.keep == "cut" else start * side
        result = maps.values.copy()
        result[..., columns] = kept
        removed = 1 - float((start * (side > 0)).sum()) / max(float(start.sum()), 1e-12)
        detail = f"{float((side > 0).mean()):.0%} of the cells lie on the map's side of the cut"
        return replace(maps, values=result, background=None), StageReport(
            self.name, float(np.clip(removed, 0, 1)), detail
        )


_APART = 1e-5  # TokenCut's weight of an edge between cells that are not alike
_FLAT = 1e-9


def _eigenvectors(weights: Float64, count: int) -> tuple[Float64, Float64, Float64]:
    """Degrees [n], and eigenvalues [m] and vectors [n, m] of (D - W) y = lambda D y behind the first, m <= count.

    Large graphs go through Lanczos' method on D^-1/2 W D^-1/2, whose largest eigenvalues these are.
    """
    degree = weights.sum(axis=1)
    root = np.sqrt(degree)
    scaled = weights / root[:, None] / root
    wanted = min(count + 1, len(weights))
    if len(weights) > _DENSE and wanted < len(weights) // 2:
        values, vectors = eigsh(scaled, k=wanted, which="LA", v0=root)
    else:
        values, vectors = linalg.eigh(scaled, subset_by_index=[len(weights) - wanted, len(weights) - 1])
    order = np.argsort(-values)[1:]
    return degree, 1 - values[order], vectors[:, order] / root[:, None]
