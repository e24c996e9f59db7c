"""How much a word of a finished text leans on the picture: ours throughout, after two observations of the field.

Words that are not in the picture look at it less (the attention share that PAI, ECCV 2024, and VAR, ICLR 2025, raise),
and what they look at is spread out. Both differ from model to model, so each is held against the words of the same text
that point at nothing. Nothing here reads what the words mean: a noun with no support may still be true, and a noun
that looks at the wrong thing has support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grounding.maps.base import grid_columns
from grounding.maps.sinks import ColumnOutliers
from grounding.types import AttentionMaps, FloatArray


@dataclass(frozen=True)
class Support:
    """What speaks for a noun, each part in [0, 1].

    With a the noun's attention on image cells that are no sinks (mean over layers and heads; of the noun's own tokens
    as queries), and a' the mean of the same over the witnesses:

    Attributes:
        gaze: a / (a + a'). 0.5 is a noun that looks at the picture as much as a stop word does.
        sharpness: s / (s + s'), s = 1 - H / log n, with the entropy H of that attention over the n cells: 0 where all
            cells draw alike, 1 where one draws everything; s' again of the witnesses.
        agreement: how well the mask covers the map, negative values counting as 0 (`segmenters.choice.agreement`);
            None where no mask was asked for.
    """

    gaze: float
    sharpness: float
    agreement: float | None = None

    @property
    def value(self) -> float:
        """The geometric mean of the parts that are there, so that none can make up for another that is 0."""
        parts = [part for part in (self.gaze, self.sharpness, self.agreement) if part is not None]
        return float(np.prod(parts) ** (1 / len(parts)))


def supports(phrases: Sequence[AttentionMaps], witnesses: AttentionMaps) -> list[Support]:
    """Support of every noun of one text, without masks.

    Sinks are the columns that `ColumnOutliers` finds with all rows of the text together, whatever they name.

    Args:
        phrases: per noun its maps as recorded, with one word marked as head; see `grounding.models.reread`.
        witnesses: rows of words that point at nothing, of the same pass.
    """
    own = [[word.is_head for word in maps.words] for maps in phrases]
    rows = [maps.values[:, :, keep].mean(axis=(0, 1, 2)) for maps, keep in zip(phrases, own, strict=True)]
    reference = witnesses.values.mean(axis=(0, 1))  # [T, K]
    together = np.stack([*rows, *reference])  # [R, K]
    words = (*(next(w for w in maps.words if w.is_head) for maps in phrases), *witnesses.words)
    columns = _off_sinks(replace(witnesses, values=together[None, None], words=words, layers=()))
    masses, sharp = together[:, columns].sum(axis=1), np.array([_sharpness(row[columns]) for row in together])
    count = len(rows)
    return [
        Support(_against(mass, masses[count:].mean()), _against(edge, sharp[count:].mean()))
        for mass, edge in zip(masses[:count], sharp[:count], strict=True)
    ]


def _off_sinks(maps: AttentionMaps) -> np.ndarray:
    """Column indices of the image cells that are no sinks."""
    sinks = ColumnOutliers().find(maps)
    return np.concatenate([at[~mask.ravel()] for at, mask in zip(grid_columns(maps), sinks, strict=True)])


def _sharpness(row: FloatArray) -> float:
    total = float(row.sum(dtype=np.float64))
    if total <= 0 or len(row) < 2:
        return 0.0
    share = row[row > 0].astype(np.float64) / total
    return float(np.clip(1 + (share * np.log(share)).sum() / np.log(len(row)), 0, 1))


def _against(one: float, other: float) -> float:
    return float(one / (one + other)) if one + other > 0 else 0.0
