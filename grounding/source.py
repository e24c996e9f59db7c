"""Sources of attention maps: from pictures and words to `AttentionMaps`.

Pipelines take a `MapSource`: a vision-language model, a diffusion transformer, or any other model that relates words to
image cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageChops

from grounding.errors import MethodError
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps

SLOT = "{expression}"
"""What an expression replaces in a prompt's template."""

_SHIFTS = ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
_Key = tuple[bytes, str, str | None, RecordSpec]


@runtime_checkable
class MapSource(Protocol):
    """Anything that records attention maps of expressions on pictures.

    Attributes:
        name: what the source is called in messages and files.
        notice: one sentence that every run with this source must show, or None.
    """

    name: str
    notice: str | None

    @property
    def layer_count(self) -> int:
        """L, the layers that a method's shares of layers refer to."""
        ...

    def maps(
        self,
        images: Sequence[Image.Image],
        expressions: Sequence[str],
        spec: RecordSpec,
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """Record one batch.

        Args:
            images: RGB pictures, one per expression.
            expressions: referring expressions; not read where the prompt has no slot.
            spec: what to record, apart from its background, which `Backgrounds` records through this method.
            prompt: template with one `{expression}`, or a generic prompt without it; the source's own where None.

        Returns:
            One maps object per picture, with `background` None. Under a generic prompt its words are the prompt's.

        Raises:
            GroundingError: the expressions cannot be used, or nothing can be recorded.
        """
        ...


class Backgrounds:
    """Attention maps that others are compared with, recorded once per picture and words.

    Maps of the latest call for a spec are kept and reused by the next one. The key is the picture's pixels, the whole
    spec, which includes a generic prompt, and the words where the background has them. Make a new object when the
    source's weights change.

    Args:
        source: records the maps.
    """

    def __init__(self, source: MapSource) -> None:
        self._source = source
        self._known: dict[_Key, AttentionMaps] = {}

    def of(
        self,
        images: Sequence[Image.Image],
        spec: RecordSpec,
        expressions: Sequence[str] = (),
        prompt: str | None = None,
    ) -> list[AttentionMaps]:
        """The background of every picture.

        Args:
            images: RGB pictures; equal pictures are recorded once.
            spec: what to record; its `background_prompt` or `background_kind` is given.
            expressions: one per picture; needed where the background keeps the words.
            prompt: the run's own template; the source's where None. Not read under a generic prompt.

        Raises:
            MethodError: the run's own prompt is nothing but the expression, and the background is to do without it.
            GroundingError: see `MapSource.maps`.
        """
        kind = spec.background_kind
        if not spec.has_background:
            raise ValueError("the spec has no background_prompt and no background_kind: nothing to record")
        if kind is None:
            prompt = spec.background_prompt
        elif kind == "no-query":
            template: str = getattr(self._source, "default_prompt", SLOT)
            prompt = without_expression(template if prompt is None else prompt)
        keeps_words = prompt is None or SLOT in prompt
        words = list(expressions) if keeps_words else [""] * len(images)
        keys = [(fingerprint(image), own, prompt, spec) for image, own in zip(images, words, strict=True)]
        self._known = {key: maps for key, maps in self._known.items() if key in keys or key[3] != spec}
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if fresh:
            plain = replace(spec.without_background(), features=False)
            asked = [own for _, own, _, _ in fresh]
            views = [[_blank(one) for one in fresh.values()]] if kind == "blank" else [list(fresh.values())]
            if kind == "shifted":
                views = [[_moved(one, *by) for one in fresh.values()] for by in _SHIFTS]
            recorded = [self._source.maps(view, asked, plain, prompt) for view in views]
            self._known.update(zip(fresh, map(_joined, *recorded), strict=True))
        return [self._known[key] for key in keys]


def without_expression(template: str) -> str:
    """A prompt's template without its expression.

    Raises:
        MethodError: nothing is left of it.
    """
    left = " ".join(template.replace(SLOT, " ").split())
    if not left:
        raise MethodError(
            "the background is the prompt without its expression, but the prompt is nothing else: give the method a "
            "prompt with words around {expression}, or contrast with another background"
        )
    return left


def _joined(*recorded: AttentionMaps) -> AttentionMaps:
    """Maps of several views of one picture as the steps of one."""
    return replace(recorded[0], values=np.concatenate([one.values for one in recorded]))


def _blank(image: Image.Image) -> Image.Image:
    """A picture of the same size in the picture's mean colour."""
    colour = np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1)).round().astype(int)
    return Image.new("RGB", image.size, tuple(colour.tolist()))


def _moved(image: Image.Image, right: float, down: float) -> Image.Image:
    """The picture moved by shares of its sides; what leaves it comes in on the other side."""
    return ImageChops.offset(image, round(right * image.width), round(down * image.height))


def refuse_particular_background(spec: RecordSpec, method: str) -> None:
    """Refuse a background of one expression, for what records texts of its own.

    Raises:
        MethodError: the spec has one.
    """
    if spec.background_kind is not None:
        raise MethodError(
            f"method {method!r} contrasts with the background {spec.background_kind!r}, which needs a referring "
            "expression: choose a method that contrasts with a generic prompt, or with nothing"
        )


def maps_and_backgrounds(
    source: MapSource,
    images: Sequence[Image.Image],
    expressions: Sequence[str],
    spec: RecordSpec,
    prompt: str | None,
    backgrounds: Backgrounds,
) -> list[AttentionMaps]:
    """Record one batch, with the maps under the spec's background, if any, as `background`.

    Args:
        source: records the maps.
        images: RGB pictures, one per expression.
        expressions: referring expressions.
        spec: what to record.
        prompt: see `MapSource.maps`.
        backgrounds: of the same source.

    Raises:
        GroundingError: see `MapSource.maps`.
    """
    maps = source.maps(images, expressions, spec.without_background(), prompt)
    if not spec.has_background:
        return maps
    behind = backgrounds.of(images, spec, expressions, prompt)
    return [replace(one, background=other) for one, other in zip(maps, behind, strict=True)]


def fingerprint(image: Image.Image) -> bytes:
    """16 bytes that are equal for equal pixels; Pillow images can change in place, so identity does not suffice."""
    described = f"{image.mode} {image.width}x{image.height}"
    return hashlib.blake2b(image.tobytes() + described.encode(), digest_size=16).digest()
