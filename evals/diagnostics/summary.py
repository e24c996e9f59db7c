"""Summarise traces of many texts as plain numbers, for JSON and for figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from evals.diagnostics.shares import SEGMENTS
from evals.diagnostics.trace import Trace
from evals.statistics import bootstrap, mean_of
from grounding.attention.sinks import SinkRule
from grounding.errors import EvalDataError
from grounding.text.align import align
from grounding.types import FloatArray

FILE = "diagnostics.json"
DIGITS = 5
ENOUGH = 0.25  # a token index is drawn if at least this share of the texts is so long

Numbers = tuple[float, ...]
Grid = tuple[Numbers, ...]


@dataclass(frozen=True)
class ObjectWord:
    """One mention of an object in a generated text.

    Attributes:
        object: the class.
        start: first character in the text.
        end: end of the characters, exclusive.
        real: whether the image shows it.
    """

    object: str
    start: int
    end: int
    real: bool


@dataclass(frozen=True)
class TracedItem:
    """One picture's trace, with the mentions of objects in its text."""

    id: str
    question: str
    trace: Trace
    words: tuple[ObjectWord, ...] = ()


@dataclass(frozen=True)
class AtWords:
    """Image share of the tokens that mention objects, by layer: mean over mentions, 95 % bootstrap bounds over images.

    Attributes:
        n: number of mentions.
        mean: [L].
        low: [L].
        high: [L].
    """

    n: int
    mean: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Text:
    """One generated text.

    Attributes:
        id: the sample's.
        question: the question.
        text: the text.
        finished: whether an end token was generated.
        tokens: its T tokens as text.
        image_share: [T] mean over layers and heads.
        words: mentions of objects; empty where the truth is not known.
    """

    id: str
    question: str
    text: str
    finished: bool
    tokens: tuple[str, ...]
    image_share: Numbers
    words: tuple[ObjectWord, ...]


@dataclass(frozen=True)
class Diagnostics:
    """Attention of generated tokens by part of the sequence. All shares are of a token's whole attention, in [0, 1].

    Shares of attention are not evidence by themselves: a ratio can change while what the model uses of the
    picture does not. Compare them with measures of the output.

    Attributes:
        task: always `diagnostics`.
        version: of this file format.
        model: as the user named it.
        steering: the steering method's name, or None.
        config_hash: of model, steering, decoding and inputs.
        versions: of the packages that the numbers depend on.
        tau: phi from which an image key is a visual sink.
        skip_layers: number of first layers without visual sinks.
        layers: L.
        heads: H.
        segments: by name [L], mean over heads and tokens of a text, then over texts; they sum to 1 in each layer.
        first_key: [L] share of the first token, part of the system's.
        visual_sinks: [L] share of the visual sinks, part of the image's.
        sink_keys: [L] mean share of the image's keys that are sinks.
        head_image: [L][H] image share of every head.
        head_non_sink: [L][H] share of a head's image attention that is not on visual sinks; 0 without image attention.
        curve: [T] image share of the t-th token, mean over the texts that are so long.
        curve_low: [T] lower quartile over them.
        curve_high: [T] upper quartile over them.
        curve_texts: [T] number of these texts.
        by_token: [L][T] `curve` by layer.
        real: at mentions of objects in the image; None without a known truth or without mentions.
        hallucinated: at mentions of objects that are not in the image; None likewise.
        texts: every generated text.
    """

    model: str
    steering: str | None
    config_hash: str
    versions: dict[str, str]
    tau: float
    skip_layers: int
    layers: int
    heads: int
    segments: dict[str, Numbers]
    first_key: Numbers
    visual_sinks: Numbers
    sink_keys: Numbers
    head_image: Grid
    head_non_sink: Grid
    curve: Numbers
    curve_low: Numbers
    curve_high: Numbers
    curve_texts: tuple[int, ...]
    by_token: Grid
    real: AtWords | None
    hallucinated: AtWords | None
    texts: tuple[Text, ...]
    task: Literal["diagnostics"] = "diagnostics"
    version: int = 1


def summarise(
    traced: Sequence[TracedItem],
    *,
    model: str,
    steering: str | None,
    config_hash: str,
    versions: dict[str, str],
    sinks: SinkRule,
    seed: int = 0,
) -> Diagnostics:
    """Summarise at least one trace; every text has equal weight, whatever its length.

    Args:
        traced: the traces.
        model: see `Diagnostics`.
        steering: see `Diagnostics`.
        config_hash: see `Diagnostics`.
        versions: see `Diagnostics`.
        sinks: the rule that the traces were made with.
        seed: of the bootstrap.
    """
    traces = [one.trace for one in traced]
    of_heads = np.mean([one.segments.mean(axis=0) for one in traces], axis=0)  # [L, H, 4]
    by_layer = of_heads.mean(axis=1)
    image, on_sinks = of_heads[..., 1], np.mean([one.sink_share for one in traces], axis=0)
    non_sink = np.divide(image - on_sinks, image, out=np.zeros_like(image), where=image > 0)
    shares = [one.segments[..., 1].mean(axis=2) for one in traces]  # each [T, L]
    places = [[one[t] for one in shares if len(one) > t] for t in range(_drawn(shares))]
    quartiles = [np.quantile([one.mean() for one in place], [0.25, 0.75]) for place in places]
    return Diagnostics(
        model=model,
        steering=steering,
        config_hash=config_hash,
        versions=versions,
        tau=sinks.tau,
        skip_layers=sinks.skip_layers,
        layers=of_heads.shape[0],
        heads=of_heads.shape[1],
        segments={name: _numbers(by_layer[:, index]) for index, name in enumerate(SEGMENTS)},
        first_key=_numbers(np.mean([one.first_key.mean(axis=(0, 2)) for one in traces], axis=0)),
        visual_sinks=_numbers(on_sinks.mean(axis=1)),
        sink_keys=_numbers(np.mean([one.sink_counts / one.image_keys for one in traces], axis=0)),
        head_image=tuple(_numbers(row) for row in image),
        head_non_sink=tuple(_numbers(row) for row in np.clip(non_sink, 0, 1)),
        curve=_numbers([np.mean(place) for place in places]),
        curve_low=_numbers([low for low, _ in quartiles]),
        curve_high=_numbers([high for _, high in quartiles]),
        curve_texts=tuple(len(place) for place in places),
        by_token=tuple(_numbers(row) for row in np.array([np.mean(place, axis=0) for place in places]).T),
        real=_at_words(traced, True, seed),
        hallucinated=_at_words(traced, False, seed),
        texts=tuple(_text(one) for one in traced),
    )


def read_diagnostics(path: Path) -> Diagnostics:
    """Read diagnostics from a file.

    Raises:
        EvalDataError: the file cannot be read or does not hold diagnostics.
    """
    from evals.inputs import read_text

    try:
        return TypeAdapter(Diagnostics).validate_json(read_text(path, "the diagnostics"))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise EvalDataError(
            f"{path} holds no diagnostics ({where}: {first['msg'].lower()}): write it anew with grounding diagnose"
        ) from wrong


def _drawn(shares: Sequence[FloatArray]) -> int:
    """The number of token indices that enough texts reach; see `ENOUGH`."""
    least = max(1, int(np.ceil(ENOUGH * len(shares))))
    return sorted((len(one) for one in shares), reverse=True)[least - 1]


def _at_words(traced: Sequence[TracedItem], real: bool, seed: int) -> AtWords | None:
    values, groups = [], []
    for number, one in enumerate(traced):
        shares = one.trace.segments[..., 1].mean(axis=2)  # [T, L]
        words = [word for word in one.words if word.real is real]
        for tokens in align([(word.start, word.end) for word in words], one.trace.spans):
            if tokens:
                values.append(shares[list(tokens)].mean(axis=0))
                groups.append(number)
    if not values:
        return None
    found = [bootstrap(mean_of(layer, groups), seed=seed) for layer in np.array(values, np.float64).T]
    return AtWords(
        n=len(values),
        mean=_numbers([one.value for one in found]),
        low=_numbers([one.low for one in found]),
        high=_numbers([one.high for one in found]),
    )


def _text(one: TracedItem) -> Text:
    return Text(
        id=one.id,
        question=one.question,
        text=one.trace.text,
        finished=one.trace.finished,
        tokens=one.trace.tokens,
        image_share=_numbers(one.trace.segments[..., 1].mean(axis=(1, 2))),
        words=one.words,
    )


def _numbers(values: Sequence[float] | FloatArray) -> Numbers:
    return tuple(round(float(value), DIGITS) for value in values)
