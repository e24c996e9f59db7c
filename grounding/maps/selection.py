"""Select the few heads that localise objects: named in the method, or picked per sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from grounding.errors import MethodError
from grounding.maps.base import (
    LAST,
    WORD_TO_IMAGE,
    Part,
    Stage,
    average_layers,
    grid_columns,
    image_columns,
    need_layers,
    on_grid,
)  # fmt: skip
from grounding.maps.head_ranking import Head, load_ranking
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Direction, FloatArray, StageReport

EIGHT = ndimage.generate_binary_structure(2, 2)
_SMALLEST = np.finfo(np.float32).tiny  # a weight of 0 has no logarithm
Join = Literal["mean", "geometric"]


@dataclass(frozen=True)
class HeadsFixed(Stage):
    """Average the heads that the method file names, [S, L, H, T, K] -> [S, 1, 1, T, K].

    Fixed localisation heads (Kang et al., CVPR 2025) are a property of one model's weights, so a method with this stage
    belongs to that model. The paper sums three heads; the mean differs by a constant factor.

    Attributes:
        pairs: (layer, head) of each, counted from 0; filled in from a file where one is named.
        heads: path of a file written by `grounding calibrate heads`, instead of pairs, relative to the working
            directory.
        count: how many of its best heads are read; the paper's 3.
        join: `mean`, or `geometric` for the geometric mean of the heads' weights.

    Notes:
        The geometric mean is our choice. Up to a factor per row it is the attention of one wide head whose logit is the
        mean of theirs, so a cell is large only where all of the heads are.
    """

    name: ClassVar[str] = "heads-fixed"
    spends: ClassVar[frozenset[Part]] = frozenset({"layers", "heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    pairs: tuple[Head, ...] = ()
    heads: str = ""
    count: int = 3
    join: Join = "mean"

    def __post_init__(self) -> None:
        if self.heads:
            named = load_ranking(self.heads).top(self.count)
            if self.pairs not in ((), named):
                raise MethodError(
                    f"stage 'heads-fixed' names pairs {self.pairs}, but the best {self.count} heads in {self.heads} "
                    f"are {named}: keep one of both"
                )
            object.__setattr__(self, "pairs", named)
        if not self.pairs or min(min(pair) for pair in self.pairs) < 0 or len(set(self.pairs)) != len(self.pairs):
            raise MethodError(f"stage 'heads-fixed' needs different (layer, head) pairs from 0 up, got {self.pairs}")

    def needs(self, layer_count: int | None) -> RecordSpec:
        """The layers of the named heads."""
        named = tuple(sorted({layer for layer, _ in self.pairs}))
        if self.heads and layer_count is not None and (held := load_ranking(self.heads)).layers != layer_count:
            raise MethodError(
                f"the heads in {self.heads} are those of {held.model}, which has {held.layers} layers, but the model "
                f"has {layer_count}: run grounding calibrate heads for it"
            )
        if layer_count is not None and named[-1] >= layer_count:
            raise MethodError(
                f"stage 'heads-fixed' names heads in layer {named[-1]}, but the model has {layer_count} layers: the "
                "method belongs to another model"
            )
        return RecordSpec(layers=named)

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Average the named heads.

        Raises:
            MethodError: a layer was not recorded or a head does not exist.
        """
        return _average_pairs(maps, self.pairs, self.name, self.join)


@dataclass(frozen=True)
class HeadsByEntropy(Stage):
    """Average the `count` heads of lowest spatial entropy, picked per sample, [S, L, H, T, K] -> [S, 1, 1, T, K].

    In the manner of localisation heads (Kang et al., CVPR 2025, section on criteria): keep heads with enough image
    attention, then take those of lowest spatial entropy. A head's map is cut at its mean, its 8-connected pieces C_i
    have H = -sum p_i log p_i with p_i = |C_i| / sum |C|. The paper then fixes three heads per model by how often they
    are picked over 1,000 samples (`head_frequencies`) and loses 20 points of accuracy when it picks them per sample.

    Attributes:
        count: how many heads are kept.
        skip_layers: how many of the model's first layers are left out; the paper leaves out two.
        min_share: least image attention of a head in [0, 1]; None finds it on the sample.
        row: the row that is judged: that of the prompt's last token as in the paper, or the mean of all rows.

    Notes:
        Our choices: unless `min_share` is given, it is the sorted shares' largest distance below the chord between
        their ends, on the sample itself; equal entropies are ordered by the larger image share; entropies of several
        grids are added; the mean over steps is judged; the background uses the heads picked on the maps themselves.
    """

    name: ClassVar[str] = "heads-entropy"
    spends: ClassVar[frozenset[Part]] = frozenset({"layers", "heads"})
    requires: ClassVar[frozenset[Part]] = frozenset({"layers", "heads", "background"})
    directions: ClassVar[frozenset[Direction]] = WORD_TO_IMAGE
    count: int = 3
    skip_layers: int = 2
    min_share: float | None = None
    row: Literal["last", "mean"] = "last"

    def __post_init__(self) -> None:
        if self.count < 1 or self.skip_layers < 0:
            raise MethodError("stage 'heads-entropy' needs count >= 1 and skip_layers >= 0")
        if self.min_share is not None and not 0 <= self.min_share <= 1:
            raise MethodError(f"stage 'heads-entropy' needs min_share in [0, 1], got {self.min_share}")

    def with_background(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Pick the heads on the maps, then average the same heads of maps and background."""
        pairs = self.pick(maps)
        result, report = _average_pairs(maps, pairs, self.name)
        if maps.background is not None:
            result = replace(result, background=_average_pairs(maps.background, pairs, self.name)[0])
        return result, report

    def apply(self, maps: AttentionMaps) -> tuple[AttentionMaps, StageReport]:
        """Pick the heads on these maps and average them."""
        return _average_pairs(maps, self.pick(maps), self.name)

    def pick(self, maps: AttentionMaps) -> tuple[Head, ...]:
        """The chosen (layer, head) pairs, best first.

        Raises:
            MethodError: the layers have been averaged already, or fewer layers were recorded than are skipped.
        """
        need_layers(maps, self.name)
        rows = [i for i, word in enumerate(maps.words) if word.text == LAST] if self.row == "last" else []
        values = maps.values[:, :, :, rows or slice(None)].mean(axis=(0, 3))  # [L, H, K]
        share = values[..., image_columns(maps)].sum(axis=-1)  # [L, H]
        allowed = np.broadcast_to(np.array(maps.layers)[:, None] >= self.skip_layers, share.shape)
        if not allowed.any():
            raise MethodError(
                f"stage 'heads-entropy' skips the first {self.skip_layers} layers, but only layers {maps.layers} are "
                "there: lower skip_layers or record more layers"
            )
        least = elbow(share[allowed]) if self.min_share is None else self.min_share
        looking = allowed & (share >= least)
        candidates = np.argwhere(looking if looking.any() else allowed)
        scored = [(spatial_entropy(maps, values[i, j]), -float(share[i, j]), int(i), int(j)) for i, j in candidates]
        return tuple((maps.layers[i], j) for _, _, i, j in sorted(scored)[: self.count])


def head_frequencies(samples: Iterable[AttentionMaps], rule: HeadsByEntropy) -> list[tuple[Head, float]]:
    """How often each head is among the rule's picks: the ranking from which a model's localisation heads are fixed.

    Args:
        samples: recorded maps of images and expressions; no boxes or masks are needed.
        rule: how heads are picked per sample; the paper marks 10 per sample.

    Returns:
        ((layer, head), share of samples that picked it), most frequent first.
    """
    counts: Counter[Head] = Counter()
    seen = 0
    for maps in samples:
        seen += 1
        counts.update(rule.pick(maps))
    return [(head, times / seen) for head, times in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _average_pairs(
    maps: AttentionMaps, pairs: tuple[Head, ...], stage: str, join: Join = "mean"
) -> tuple[AttentionMaps, StageReport]:
    need_layers(maps, stage)
    at = {layer: index for index, layer in enumerate(maps.layers)}
    layers, heads = maps.values.shape[1:3]
    for layer, head in pairs:
        if layer not in at or head >= heads:
            raise MethodError(
                f"stage {stage!r} names layer {layer} head {head}, but the maps hold layers {maps.layers} with {heads} "
                "heads each: name heads of this model and record their layers"
            )
    picked = np.stack([maps.values[:, at[layer], head] for layer, head in pairs])  # [P, S, T, K]
    total = float(maps.values.sum(dtype=np.float64))
    removed = 1 - float(picked.sum(dtype=np.float64)) / total if total > 0 else 0.0
    named = ", ".join(f"{layer}.{head}" for layer, head in pairs)
    detail = f"kept {len(pairs)} of {layers * heads} heads (layer.head {named})"
    logarithms = np.log(np.maximum(picked, _SMALLEST))
    joined = np.exp(logarithms.mean(axis=0)) if join == "geometric" else picked.mean(axis=0)
    between = maps.text_to_text
    if between is not None:
        between = np.stack([between[:, at[layer], head] for layer, head in pairs]).mean(axis=0)[:, None, None]
    result = replace(average_layers(replace(maps, text_to_text=None), joined[:, None, None]), text_to_text=between)
    return result, StageReport(stage, float(np.clip(removed, 0, 1)), detail, {"heads": [list(pair) for pair in pairs]})


def spatial_entropy(maps: AttentionMaps, row: FloatArray) -> float:
    """The spatial entropy of a row [K], added over grids; see `HeadsByEntropy`."""
    total = 0.0
    for columns, grid in zip(grid_columns(maps), maps.grids, strict=True):
        cells = on_grid(row, columns, grid)
        labels, count = ndimage.label(cells > cells.mean(), structure=EIGHT)
        if count == 0:  # a flat map has no piece at all and counts like one of single cells
            total += float(np.log(cells.size))
            continue
        shares = np.bincount(labels.ravel())[1:] / np.count_nonzero(labels)
        total += float(-(shares * np.log(shares)).sum())
    return total


def elbow(shares: npt.NDArray[np.floating]) -> float:
    """The value at the sorted values' largest distance below the chord between their ends."""
    ranked = np.sort(shares.astype(np.float64))
    if len(ranked) < 3 or ranked[-1] <= ranked[0]:
        return float(ranked[0])
    chord = ranked[0] + (ranked[-1] - ranked[0]) * np.linspace(0, 1, len(ranked))
    return float(ranked[int(np.argmax(chord - ranked))])
