"""Join the heat maps of several models into one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np

from grounding.errors import MethodError
from grounding.maps.base import Part, Stage, lost_share
from grounding.types import AttentionMaps, Direction, StageReport, Word, WordKind

How = Literal["product", "ranks"]
HOW: tuple[How, ...] = get_args(How)
"""Ways to join maps."""


@dataclass(frozen=True)
class JoinModels(Stage):
    """Join the models' heat maps on one grid, [1, 1, 1, M, K] -> [1, 1, 1, 1, K], M models.

    Attributes:
        how: `product`: the weighted geometric mean, which is high where all models look. `ranks`: the weighted mean of
            each cell's rank within its map, equal values sharing their mean rank, which does not depend on how peaked
            a map is.
        weights: one per model, in the order of the ensemble; all alike where empty.
        floor: of each map before a product, in [0, 1); how little a cell can count that a model does not look at. At 0
            one model can rule a cell out.
        methods: one name of a method or YAML file per model, or `auto` for the model's own; all `auto` where empty.
            They are read where the models are loaded; see `grounding.sources.load_source`.

    Notes:
        No paper is followed. Product and mean of ranks are two common ways to join scores of unlike scales. Ranks are
        spread evenly over [0, 1], so a joined map of ranks has a peak but no outline to compare masks with: choose
        them by `mask: {choice: iou}`.
    """

    name: ClassVar[str] = "ensemble"
    spends: ClassVar[frozenset[Part]] = frozenset({"words"})
    requires: ClassVar[frozenset[Part]] = frozenset({"words", "background"})
    directions: ClassVar[frozenset[Direction]] = frozenset({"model-to-image"})
    how: How = "product"
    weights: tuple[float, ...] = ()
    floor: float = 0.05
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise MethodError(f"stage 'ensemble' needs weights >= 0 and one above 0, got {list(self.weights)}")
        if not 0 <= self.floor < 1:
            raise MethodError(f"stage 'ensemble' needs a floor in [0, 1), got {self.floor}")

    def check_models(self, count: int) -> None:
        """Refuse weights and methods that are not one per model.

        Raises:
            MethodError: they are not.
        """
        for name, given in (("weights", self.weights), ("methods", self.methods)):
            if given and len(given) != count:
                raise MethodError(
                    f"stage 'ensemble' has {len(given)} {name} for {count} models: give one per model, or none"
                )

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Join the maps.

        Raises:
            MethodError: there is not one weight per model.
        """
        names = [word.text for word in maps.words]
        self.check_models(len(names))
        shares = np.array(self.weights or [1.0] * len(names))
        shares = shares / shares.sum()
        rows = maps.values.astype(np.float64)
        if self.how == "product":
            with np.errstate(divide="ignore"):
                logs = np.log(self.floor + (1 - self.floor) * rows[:, :, :, shares > 0])
            joined = np.exp(np.einsum("t,slhtk->slhk", shares[shares > 0], logs))
        else:
            from scipy.stats import rankdata  # slow to import, and this module is read with every command

            ranks = (rankdata(rows, axis=-1) - 1) / max(rows.shape[-1] - 1, 1)
            joined = np.einsum("t,slhtk->slhk", shares, ranks)
        values = joined[:, :, :, None].astype(np.float32)
        positions = tuple(p for word in maps.words for p in word.positions)
        word = Word(f"<{self.how}>", (0, 0), positions, WordKind.SPECIAL)
        removed = lost_share(float(rows.mean(axis=3).sum()), float(joined.sum()))
        how = "product" if self.how == "product" else "mean of the ranks"
        detail = f"{how} of the maps of {' and '.join(names)}"
        weights = tuple(round(float(share), 6) for share in shares)
        unread = {index: "weight 0" for index, share in enumerate(shares) if not share}
        data = {"weights": dict(zip(names, weights, strict=True))}
        result = replace(maps, values=values, words=(word,), text_to_text=None, logits=None)
        return result, StageReport(self.name, removed, detail, data, unread, weights)
