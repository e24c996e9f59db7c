"""From an image and a few words to a mask: one forward pass, recorded attention, points, a segmenter."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from grounding.io import as_rgb, open_image
from grounding.methods import Method, RequestKnobs, load_method, run_stages
from grounding.models.load import STARTERS
from grounding.types import AttentionMaps, Heatmap, PointPrompts, Segment, StageReport
from pipelines.saving import Format, save_result

if TYPE_CHECKING:
    import torch

    from grounding.models.base import VLM
    from grounding.segmenters.base import Segmenter

Picture = Image.Image | str | Path
Pair = tuple[Picture, str]

DEFAULT_MODEL = "starter-photo"
DEFAULT_SEGMENTER = "mobile-sam"
DEFAULT_BATCH = 4


@dataclass(frozen=True)
class Timings:
    """Seconds that one result took; what a batch or several expressions share is split evenly among them.

    Attributes:
        attention: the model's forward pass with recording, the generic prompt's included.
        stages: from recorded maps to the heat map and the points.
        encode: the segmenter's image encoder.
        mask: the segmenter's answer to the points, and the mask's choice.
    """

    attention: float
    stages: float
    encode: float
    mask: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.attention + self.stages + self.encode + self.mask


@dataclass(frozen=True)
class ReferringResult:
    """What an expression means in an image, and how it was found.

    Attributes:
        image: the picture as RGB, upright.
        expression: the words.
        segments: the masks, best first; today's methods give one.
        map: where the model looked, [h, w] in [0, 1] over the whole image.
        points: what the segmenter was asked, in pixels of the image.
        timings: seconds by step.
    """

    image: Image.Image = field(repr=False)
    expression: str
    segments: tuple[Segment, ...] = field(repr=False)
    map: Heatmap = field(repr=False)
    points: PointPrompts = field(repr=False)
    timings: Timings

    @property
    def stages(self) -> tuple[StageReport, ...]:
        """What each stage of the method removed, in order."""
        return self.map.stages

    def save(
        self, folder: str | Path, name: str | None = None, formats: Sequence[Format] = ("png", "coco", "npz")
    ) -> tuple[Path, ...]:
        """Write the result to a folder, which is made where it is missing. Each file appears whole or not at all.

        Args:
            folder: where to.
            name: the files' name without ending; the expression where None.
            formats: `png`: the image with map, points and mask; `coco`: a list of COCO results with RLE masks;
                `npz`: the map with what each stage removed.

        Returns:
            The files, in the order of `formats`.

        Raises:
            OutputError: the folder cannot be written to.
        """
        return save_result(self, Path(folder), name, formats)


class ReferringSegmentation:
    """Masks for referring expressions from the attention of a vision-language model.

    >>> pipe = ReferringSegmentation.from_pretrained("starter", "mobile-sam")
    >>> result = pipe(image, "the small red star")  # doctest: +SKIP
    >>> results = pipe([(image, "the red star"), (image, "the blue square")])  # doctest: +SKIP

    An object holds the last image that its segmenter encoded, so calls from several threads must not mix.

    Args:
        vlm: the vision-language model.
        segmenter: what turns points into masks.
        method: how maps become points.
        batch_size: most pairs in one forward pass.
    """

    def __init__(self, vlm: VLM, segmenter: Segmenter, method: Method, batch_size: int = DEFAULT_BATCH) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.vlm = vlm
        self.segmenter = segmenter
        self.method = method
        self.batch_size = batch_size
        self.knobs = method.request_knobs(vlm.layer_count)
        self._encoded: bytes | None = None
        self._backgrounds: dict[tuple[bytes, RequestKnobs], AttentionMaps] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        segmenter: str = DEFAULT_SEGMENTER,
        method: str | Path = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        device_map: str | dict[str, Any] | None = None,
        batch_size: int = DEFAULT_BATCH,
    ) -> ReferringSegmentation:
        """Load model, segmenter and method by name.

        Args:
            model: `starter-photo`, `starter`, a folder written by `save_pretrained`, or a hub id.
            segmenter: see `grounding.segmenters.load.load_segmenter`.
            method: a shipped method's name, a YAML file, or `auto`; see `method_for`.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`, for the model and the segmenter's image encoder.
            device_map: spreads the model over devices through accelerate; `device` is then the segmenter's alone.
            batch_size: most pairs in one forward pass.

        Raises:
            GroundingError: something of this is unknown, missing or too large; see the loaders.
        """
        from grounding.models.load import load
        from grounding.segmenters.load import load_segmenter

        # The method first: it is read in no time, and a misspelt name should not cost a model's loading.
        chosen = method_for(model, method)
        vlm = load(model, device, dtype, device_map)
        return cls(vlm, load_segmenter(segmenter, device, dtype), chosen, batch_size)

    @overload
    def __call__(self, image: Picture, expression: str, /) -> ReferringResult: ...

    @overload
    def __call__(self, pairs: Sequence[Pair], /) -> list[ReferringResult]: ...

    def __call__(
        self, image: Picture | Sequence[Pair], expression: str | None = None, /
    ) -> ReferringResult | list[ReferringResult]:
        """Find what expressions mean.

        Pairs of the same picture, wherever they stand, share one run of the segmenter's image encoder and one of the
        generic prompt.

        Args:
            image: a picture or its path, together with `expression`; or a sequence of (picture or path, expression)
                alone.
            expression: the words.

        Returns:
            One result, or a list in the order of the pairs.

        Raises:
            ImageError: a picture that is missing, broken, too small or too large.
            ExpressionError: words that the model cannot be asked about.
            ModelError: out of memory, among others; see `grounding.models`.
            EmptyMapError: the map is empty after the method's stages.
            MethodError: the method does not fit the model.
        """
        if isinstance(image, Image.Image | str | Path):
            if expression is None:
                raise TypeError("a picture needs an expression: call pipe(image, expression), or pipe(pairs)")
            return self._run([(image, expression)])[0]
        if expression is not None:
            raise TypeError("a sequence of pairs takes no further expression: call pipe(pairs)")
        return self._run(list(image))

    def look(self, pairs: Sequence[tuple[Image.Image, str]], knobs: RequestKnobs | None = None) -> list[AttentionMaps]:
        """Run the model on one batch and keep what the method needs.

        Args:
            pairs: (RGB picture, expression).
            knobs: what to record; what the method needs where None. An evaluation that compares methods asks for more.

        Returns:
            The maps of the expressions' words, with the generic prompt's as background where the method contrasts.
        """
        from grounding.models.maps import attend

        knobs = knobs or self.knobs
        recorded: dict[str, Any] = {
            "layers": knobs.layers,
            "reduce": knobs.reduce,
            "head_statistics": knobs.head_statistics,
            "residual_sinks": knobs.residual_sinks,
        }
        images = [image for image, _ in pairs]
        prepared = self.vlm.prepare(images, [expression for _, expression in pairs], self.method.prompt)
        maps = attend(self.vlm, prepared, **recorded)
        if knobs.background_prompt is None:
            return maps
        keys = [(_fingerprint(image), knobs) for image in images]  # the knobs hold the generic prompt too
        self._backgrounds = {key: found for key, found in self._backgrounds.items() if key in keys}
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._backgrounds}
        if fresh:
            generic = self.vlm.prepare(list(fresh.values()), [""] * len(fresh), knobs.background_prompt)
            self._backgrounds.update(zip(fresh, attend(self.vlm, generic, **recorded), strict=True))
        return [replace(one, background=self._backgrounds[key]) for one, key in zip(maps, keys, strict=True)]

    def encode(self, image: Image.Image) -> None:
        """Show the segmenter a picture, unless it is the one it has."""
        key = _fingerprint(image)
        if key == self._encoded:
            return
        self._encoded = None  # an encoder that fails leaves the segmenter without an image
        self.segmenter.set_image(image)
        self._encoded = key

    def ask(self, heatmap: Heatmap, points: PointPrompts, expression: str, method: Method | None = None) -> Segment:
        """The mask for points on the picture that was encoded last, chosen by the method's rule."""
        from grounding.segmenters.mask_selection import MaskRule, predict_mask

        wanted = (method or self.method).mask
        rule = MaskRule(wanted.choice, wanted.measure)
        return predict_mask(self.segmenter, points, heatmap, rule, wanted.cascade, expression)

    def _run(self, pairs: list[Pair]) -> list[ReferringResult]:
        opened = _open(pairs)
        order = _by_picture([image for image, _ in opened])
        results: dict[int, ReferringResult] = {}
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            results.update(zip(chunk, self._batch([opened[index] for index in chunk]), strict=True))
        return [results[index] for index in range(len(pairs))]

    def _batch(self, pairs: list[tuple[Image.Image, str]]) -> list[ReferringResult]:
        started = time.perf_counter()
        maps = self.look(pairs)
        attention = (time.perf_counter() - started) / len(pairs)
        results = []
        for (image, expression), recorded in zip(pairs, maps, strict=True):
            marks = [time.perf_counter()]
            heatmap = run_stages(self.method, recorded)
            points = self.method.points(heatmap)
            marks.append(time.perf_counter())
            self.encode(image)
            marks.append(time.perf_counter())
            segment = self.ask(heatmap, points, expression)
            marks.append(time.perf_counter())
            stages, encode, mask = (after - before for before, after in itertools.pairwise(marks))
            timings = Timings(attention, stages, encode, mask)
            results.append(ReferringResult(image, expression, (segment,), heatmap, points, timings))
        return results


def method_for(model: str, method: str | Path = "auto") -> Method:
    """The method for a model.

    Args:
        model: the model's name.
        method: a shipped method's name or a YAML file; `auto` is a starter's own of the same name, else `default`.

    Raises:
        MethodError: no such method, or its file is wrong.
    """
    if method == "auto":
        method = model if model in STARTERS else "default"
    return load_method(method)


def _open(pairs: Sequence[Pair]) -> list[tuple[Image.Image, str]]:
    """Every picture once as upright RGB, however often it occurs."""
    seen: dict[object, Image.Image] = {}
    opened = []
    for picture, expression in pairs:
        key: object = id(picture) if isinstance(picture, Image.Image) else str(picture)
        if key not in seen:
            seen[key] = as_rgb(picture) if isinstance(picture, Image.Image) else open_image(picture)
        opened.append((seen[key], expression))
    return opened


def _by_picture(images: Sequence[Image.Image]) -> list[int]:
    """Indices with equal pictures side by side, in the order in which each picture first appears."""
    first: dict[bytes, int] = {}
    known: dict[int, bytes] = {}
    for image in images:
        key = known.setdefault(id(image), _fingerprint(image))
        first.setdefault(key, len(first))
    return sorted(range(len(images)), key=lambda index: first[known[id(images[index])]])


def _fingerprint(image: Image.Image) -> bytes:
    """Equal for equal pixels; a Pillow image can be changed in place, so its identity says nothing."""
    return hashlib.blake2b(image.tobytes() + f"{image.width}x{image.height}".encode(), digest_size=16).digest()
