"""The frozen dataclasses that pass between rooms, and nothing but their validation.

Shape letters: S steps, L layers, H heads, T words (rows), K keys (columns), N points. Every array here is a NumPy array
on the CPU. Pixel coordinates are (x, y) with the origin at the top left corner of the *original* image, and a pixel's
centre lies at +0.5, so an image of width W spans x in [0, W].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from grounding.attention_flow import AttentionFlow
from grounding.equality import ByValue
from grounding.geometry import Box, tight_box
from grounding.layout import ImageGrid

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class WordKind(StrEnum):
    """What a word is to a map: only content words point at things; a model of an ensemble stands in a word's place."""

    CONTENT = "content"
    STOP = "stop"
    SPATIAL = "spatial"
    MAGNET = "magnet"
    SPECIAL = "special"
    MODEL = "model"


@dataclass(frozen=True)
class Word:
    """One word of the text and where the model sees it.

    Attributes:
        text: the word as written.
        span: (start, end) characters in the text the caller gave; (0, 0) for a special token that stands for no word.
        positions: indices of its tokens in the model's input sequence, in order.
        kind: what the word is to a map.
        is_head: whether it belongs to the head noun of the phrase.
    """

    text: str
    span: tuple[int, int]
    positions: tuple[int, ...]
    kind: WordKind
    is_head: bool = False


Direction = Literal["word-to-image", "image-to-word", "model-to-image"]


@dataclass(frozen=True, eq=False)
class EditedSinks(ByValue):
    """Which words were sinks whose attention was changed while the model ran.

    Attributes:
        edited: (T,) share of the edited layers and heads in which a word's attention was taken away, in [0, 1].
        evidence: [T, 3] what a `TextSinkRule` looked at in the unedited run: share, variation, weight from other
            words; None where each head's strongest keys were taken.
    """

    edited: FloatArray  # [T]
    evidence: FloatArray | None = None  # [T, 3]


@dataclass(frozen=True, eq=False)
class AttentionMaps(ByValue):
    """Attention of one image and one text, as recorded or after any number of stages.

    Attributes:
        values: [S, L, H, T, K] weights. S counts noise levels or draws and is 1 for a vision-language model. As
            recorded, a row of softmax attention from words to the image is part of a softmax over *all* keys, so it
            sums to at most 1. A stage that averages an axis keeps it with length 1.
        layers: the L decoder layers that the second axis stands for, counted from 0; empty once layers are averaged.
        words: the T words that the fourth axis stands for. A word of several tokens is the mean of its tokens' rows,
            or where cells are queries the sum of its tokens' columns.
        keys: (K,) sequence positions of the columns; every grid's positions are among them.
        grids: the image's token grids.
        image_size: (width, height) of the original image in pixels.
        direction: `"word-to-image"`: words are queries and columns are keys, as in a vision-language model;
            `"image-to-word"`: image cells are queries and words are keys, so that a column holds a cell's weights on
            the words, as in a diffusion transformer; `"model-to-image"`: each row is a whole heat map in [0, 1] of one
            model of an ensemble, which stands in `words`.
        signed: weights may be negative, as those of a linear attention layer; otherwise all are >= 0.
        head_statistics: per name (`"max_all"`, `"max_image"`) the [L, H] mean over every query of the prompt of its
            largest weight over all keys, or over image keys.
        residual_sinks: [L, K] phi, how far each key's residual stands out in the sink dimensions; 0 for keys of
            cross-attention, which have no residual stream; None if not recorded.
        text_to_text: [S, L, H, T, T] weights of words (fourth axis) on words (fifth); None if not recorded.
        features: [K, E] the vision tower's own features of the image at the keys; None if not recorded.
        logits: [T, K] each word's logit at every key, the mean over its tokens; None if not recorded.
        background: the maps that they are compared with, those of the same image under a generic prompt for one; None
            if not recorded. Its steps may be others.
        sinks: the text sinks whose attention was changed while the model ran; None where it was not.
        flow: the flow of which values are rows, L = H = 1; None where they are weights of single layers and heads, or
            their means.
        layer_count: how many decoder layers the model has; None where it is not known.
        skipped_layers: the model's layers that have no weights of the recorded kind: of softmax attention, or where
            signed of linear attention.
    """

    values: FloatArray  # [S, L, H, T, K]
    layers: tuple[int, ...]
    words: tuple[Word, ...]
    keys: IntArray  # [K]
    grids: tuple[ImageGrid, ...]
    image_size: tuple[int, int]
    direction: Direction = "word-to-image"
    signed: bool = False
    head_statistics: dict[str, FloatArray] = field(default_factory=dict)  # each [L, H]
    residual_sinks: FloatArray | None = None  # [L, K]
    text_to_text: FloatArray | None = None  # [S, L, H, T, T]
    features: FloatArray | None = None  # [K, E]
    logits: FloatArray | None = None  # [T, K]
    sinks: EditedSinks | None = None
    background: AttentionMaps | None = None
    flow: AttentionFlow | None = None
    layer_count: int | None = None
    skipped_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 5:
            raise ValueError(f"attention values must be [S, L, H, T, K], got shape {self.values.shape}")
        rows, columns = self.values.shape[-2:]
        if rows != len(self.words):
            raise ValueError(f"{rows} rows of attention but {len(self.words)} words")
        if self.keys.shape != (columns,):
            raise ValueError(f"{columns} columns of attention but keys of shape {self.keys.shape}")
        if self.text_to_text is not None and self.text_to_text.shape != (*self.values.shape[:4], rows):
            raise ValueError(
                f"text-to-text weights must be [S, L, H, T, T] of the values' axes {self.values.shape[:4]}, got shape "
                f"{self.text_to_text.shape}"
            )
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != columns):
            raise ValueError(f"features must be [K, E] of {columns} keys, got shape {self.features.shape}")
        if self.logits is not None and self.logits.shape != (rows, columns):
            raise ValueError(f"logits must be [T, K] = ({rows}, {columns}), got shape {self.logits.shape}")
        known = set(self.keys.tolist())
        for grid in self.grids:
            missing = [p for p in grid.positions.tolist() if p not in known]
            if missing:
                raise ValueError(f"grid positions {missing[:5]} were not recorded as keys")


@dataclass(frozen=True)
class StageReport:
    """What one stage of a method did, for the report.

    Attributes:
        stage: the stage's name as written in the method file.
        removed: share of the attention mass that the stage took away, in [0, 1].
        detail: one short sentence for people ("3 of 144 columns suppressed").
        data: numbers and lists behind the sentence, JSON-ready.
        dropped: by a word's index among the words that the stage was given, why its attention is not in the map from
            here on, in a few words ("stop word"). A stage may leave such a word among its maps' words, emptied.
        weights: where the stage joins words into one map: each given word's weight in it, summing to 1; else empty.
    """

    stage: str
    removed: float
    detail: str
    data: dict[str, Any] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Heatmap(ByValue):
    """Where the words look, on a grid of equal cells laid over the whole original image.

    Attributes:
        values: [h, w] float32 in [0, 1], row 0 at the top; the largest value is 1 unless the map is empty.
        image_size: (width, height) of the original image in pixels.
        stages: what each stage removed on the way.
    """

    values: FloatArray
    image_size: tuple[int, int]
    stages: tuple[StageReport, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.size == 0:
            raise ValueError(f"a heat map is a [h, w] array, got shape {self.values.shape}")
        if not np.isfinite(self.values).all() or self.values.min() < 0 or self.values.max() > 1 + 1e-6:
            raise ValueError("heat map values must be finite and in [0, 1]")


@dataclass(frozen=True, eq=False)
class PointPrompts(ByValue):
    """Points, and where a rule gives one a box, in pixels of the original image.

    Attributes:
        xy: [N, 2] float32 (x, y).
        label: [N] int64, 1 on the object and 0 off it.
        weight: [N] float32, the map's value at the point.
        box_xyxy: an optional box around the object.
    """

    xy: FloatArray
    label: IntArray
    weight: FloatArray
    box_xyxy: Box | None = None

    def __post_init__(self) -> None:
        count = len(self.xy)
        shapes = (self.xy.shape, self.label.shape, self.weight.shape)
        if shapes != ((count, 2), (count,), (count,)):
            raise ValueError(f"points need xy [N, 2], label [N] and weight [N], got shapes {shapes}")
        if not np.isin(self.label, (0, 1)).all():
            raise ValueError(
                f"point labels are 1 (on the object) or 0 (off it), got {sorted(set(self.label.tolist()))}"
            )
        if count == 0 and self.box_xyxy is None:
            raise ValueError("a prompt needs at least one point or a box")


@dataclass(frozen=True, eq=False)
class Segment(ByValue):
    """One mask and how it came about.

    Attributes:
        mask: bool [H, W] in the original image's size.
        score: the segmenter's own estimate of the mask's IoU, in [0, 1] up to rounding. It judges the outline and does
            not tell the right thing from a wrong one.
        points: the prompt that led to it.
        label: the words it stands for.
        agreement: how well the mask covers the map (see `segmenters/mask_selection.py`), where it was measured.
        confidence: the probability that it is the right thing, in [0, 1], where one was fitted (see
            `grounding/candidates/confidence.py`).
    """

    mask: BoolArray
    score: float
    points: PointPrompts
    label: str = ""
    agreement: float | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a mask is a bool [H, W] array, got {self.mask.dtype} {self.mask.shape}")

    @property
    def box_xyxy(self) -> Box:
        """The tightest box around the mask in pixels, (0, 0, 0, 0) for an empty mask."""
        return tight_box(self.mask)
