"""What must be recorded of a model's passes, whatever the pictures and words are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from grounding.attention_flow import AttentionFlow
from grounding.errors import RecordingError
from grounding.joint_spec import MagnetWords, Readout, SinkEdit

T = TypeVar("T")

Reduce = Literal["none", "heads", "layers", "both"]
Attention = Literal["softmax", "linear", "cross"]
"""Kinds of attention layers that can be recorded: `softmax` attention to the sequence itself, `linear` for the gated
delta rule, and `cross` for softmax attention to keys of a picture that are no positions of the sequence."""

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
            delta rule, whose weights are signed and do not sum to 1; `cross`: layers of cross-attention, whose columns
            are keys of the picture. One recording has layers of one kind. A source whose maps are of `cross` layers
            takes `softmax` for it.
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
        if self.attention == "cross" and (self.flow or self.residual_sinks or self.text_to_text):
            raise RecordingError(
                "a flow, residual_sinks and text_to_text need keys that are positions of the sequence, and those of "
                "cross-attention are not: leave them out"
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
            ValueError: the two name different backgrounds, magnets, edits of sinks, readouts, flows, or kinds of
            attention.
        """
        prompt = _only("background prompt", self.background_prompt, other.background_prompt)
        kind: BackgroundKind | None = _only("background", self.background_kind, other.background_kind)
        if prompt is not None and kind is not None:
            raise ValueError(f"one recording has one background, got {prompt!r} and {kind!r}")
        reduced = _REDUCED[self.reduce] & _REDUCED[other.reduce]
        return RecordSpec(
            layers=_either(self.layers, other.layers),
            heads=_either(self.heads, other.heads),
            attention=_only("kind of attention", _particular(self), _particular(other)) or "softmax",
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


def _particular(spec: RecordSpec) -> Attention | None:
    return None if spec.attention == "softmax" else spec.attention


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
