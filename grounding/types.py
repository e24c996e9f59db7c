"""The frozen dataclasses that pass between rooms, and nothing but their validation.

Shape letters: S steps, L layers, H heads, T words (rows), K keys (columns), N points. Every array here is a NumPy array
on the CPU. Pixel coordinates are (x, y) with the origin at the top left corner of the *original* image, and a pixel's
centre lies at +0.5, so an image of width W spans x in [0, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from grounding.attention_flow import AttentionFlow
from grounding.equality import ByValue
from grounding.errors import RecordingError
from grounding.geometry import Box, tight_box
from grounding.joint_spec import MagnetWords, Readout, SinkEdit
from grounding.layout import ImageGrid

T = TypeVar("T")
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


Reduce = Literal["none", "heads", "layers", "both"]
Attention = Literal["softmax", "linear"]
"""Kinds of attention layers that can be recorded: `linear` stands for the gated delta rule."""

Direction = Literal["word-to-image", "image-to-word", "model-to-image"]

_REDUCED: dict[Reduce, frozenset[str]] = {
    "none": frozenset(),
    "heads": frozenset({"heads"}),
    "layers": frozenset({"layers"}),
    "both": frozenset({"heads", "layers"}),
}

STATISTICS = ("max_all", "max_image")
"""Head statistics that can be recorded."""

BackgroundKind = Literal["no-query", "blank", "shifted"]
"""A background that is not a generic prompt: the run's own prompt without the expression, the expression on a blank
picture, or on the picture moved around itself."""


@dataclass(frozen=True)
class RecordSpec:
    """What must be recorded, whatever the pictures and words are.

    Attributes:
        layers: decoder layers, counted from 0; None for all.
        heads: query heads, counted from 0 (of linear attention value heads); None for all.
        attention: `softmax`: layers whose weights are a softmax over keys; `linear`: layers that attend by the gated
            delta rule, whose weights are signed and do not sum to 1. One recording has layers of one kind.
        reduce: axes averaged while the model runs; an averaged axis keeps length 1.
        flow: record rows of the attention flow through the layers in place of every layer's and head's own, so that
            both axes have length 1; layers without softmax attention are passed over. None for no flow.
        head_statistics: `"max_all"`, `"max_image"`; see `AttentionMaps.head_statistics`.
        residual_sinks: record phi, how far each key's residual stands out in the layer's sink dimensions.
        text_to_text: record the weights of words on words, which diffusion transformers with joint attention have.
        magnets: words that the source appends to the prompt; None for none.
        features: record the vision tower's own features of every image key.
        logits: record the words' logits at every image key, as the language model's head gives them there.
        sinks: how the source changes attention to text sinks while the model runs; None for not at all.
        readout: what maps are read from, and at which noise; None for attention, as the model's own settings say.
        background_prompt: a generic prompt to record as well, to the same spec; None where no stage contrasts.
        background_kind: another background in its place.
        budget_bytes: most bytes that one recording may take, checked before the model runs.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    attention: Attention = "softmax"
    reduce: Reduce = "none"
    flow: AttentionFlow | None = None
    head_statistics: tuple[str, ...] = ()
    residual_sinks: bool = False
    text_to_text: bool = False
    magnets: MagnetWords | None = None
    features: bool = False
    logits: bool = False
    sinks: SinkEdit | None = None
    readout: Readout | None = None
    background_prompt: str | None = None
    background_kind: BackgroundKind | None = None
    budget_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for name, chosen in (("layers", self.layers), ("heads", self.heads)):
            if chosen is not None:
                if not chosen or len(set(chosen)) != len(chosen):
                    raise RecordingError(f"{name}={chosen} must name each wanted one once, or be None")
                check_counted(name, chosen)
        if self.attention not in get_args(Attention):
            raise RecordingError(f"attention={self.attention!r} is unknown; use {' or '.join(get_args(Attention))}")
        of_softmax = self.flow or self.head_statistics or self.residual_sinks or self.text_to_text
        if self.attention == "linear" and of_softmax:
            raise RecordingError(
                "a flow, head_statistics, residual_sinks and text_to_text are recorded of softmax attention: "
                "leave them out, or record its layers with attention='softmax'"
            )
        if self.reduce not in get_args(Reduce):
            raise RecordingError(f"reduce={self.reduce!r} is unknown; use {', '.join(map(repr, get_args(Reduce)))}")
        unknown = [name for name in self.head_statistics if name not in STATISTICS]
        if unknown:
            raise RecordingError(f"head statistic {unknown[0]!r} is unknown; known are {', '.join(STATISTICS)}")
        if self.background_kind is not None and self.background_kind not in get_args(BackgroundKind):
            raise RecordingError(
                f"background {self.background_kind!r} is unknown: use a generic prompt, "
                f"{', '.join(get_args(BackgroundKind))}"
            )
        if self.background_prompt is not None and self.background_kind is not None:
            raise RecordingError(
                f"one recording has one background, got the prompt {self.background_prompt!r} and "
                f"{self.background_kind!r}"
            )
        if self.flow is not None and (self.heads or self.head_statistics or self.residual_sinks or self.text_to_text):
            raise RecordingError(
                "an attention flow joins all heads of all its layers, so heads, head_statistics, residual_sinks and "
                "text_to_text cannot be recorded with it: record them in a pass of their own"
            )

    @property
    def has_background(self) -> bool:
        """Whether a background is recorded as well."""
        return self.background_prompt is not None or self.background_kind is not None

    def without_background(self) -> RecordSpec:
        """The same recording without a background."""
        return replace(self, background_prompt=None, background_kind=None)

    def __or__(self, other: RecordSpec) -> RecordSpec:
        """The least spec that records everything either of the two records; the larger budget is kept.

        A recording with magnets, an edit of sinks, a readout or a flow differs from one without in every weight; None
        stands for a spec that takes either, and so does `softmax` for one that takes either kind of attention.

        Raises:
            ValueError: the two name different backgrounds, magnets, edits of sinks, readouts or flows.
        """
        prompt = _only("background prompt", self.background_prompt, other.background_prompt)
        kind: BackgroundKind | None = _only("background", self.background_kind, other.background_kind)
        if prompt is not None and kind is not None:
            raise ValueError(f"one recording has one background, got {prompt!r} and {kind!r}")
        reduced = _REDUCED[self.reduce] & _REDUCED[other.reduce]
        return RecordSpec(
            layers=_either(self.layers, other.layers),
            heads=_either(self.heads, other.heads),
            attention="linear" if "linear" in (self.attention, other.attention) else "softmax",
            reduce=next(name for name, axes in _REDUCED.items() if axes == reduced),
            flow=_only("attention flow", self.flow, other.flow),
            head_statistics=tuple(dict.fromkeys((*self.head_statistics, *other.head_statistics))),
            residual_sinks=self.residual_sinks or other.residual_sinks,
            text_to_text=self.text_to_text or other.text_to_text,
            magnets=_only("list of magnets", self.magnets, other.magnets),
            sinks=_only("edit of sinks", self.sinks, other.sinks),
            readout=_only("readout", self.readout, other.readout),
            features=self.features or other.features,
            logits=self.logits or other.logits,
            background_prompt=prompt,
            background_kind=kind,
            budget_bytes=max(self.budget_bytes, other.budget_bytes),
        )


def _only(what: str, one: T | None, other: T | None) -> T | None:
    """The one that is given; None where neither is."""
    if one is not None and other is not None and one != other:
        raise ValueError(f"one recording has one {what}, got {one!r} and {other!r}")
    return other if one is None else one


def check_counted(name: str, values: Sequence[int]) -> None:
    """Refuse negative positions and numbers.

    Raises:
        RecordingError: naming the smallest.
    """
    if any(value < 0 for value in values):
        raise RecordingError(f"{name} holds {min(values)}; positions and numbers count from 0")


def _either(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if one is None or other is None else tuple(sorted({*one, *other}))


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
        residual_sinks: [L, K] phi, how far each key's residual stands out in the sink dimensions; None if not recorded.
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
