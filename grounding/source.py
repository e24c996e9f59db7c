"""Sources of attention maps: from pictures and words to `AttentionMaps`.

Pipelines take a `MapSource`: a vision-language model, a diffusion transformer, or any other model that relates words to
image cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from grounding.types import AttentionMaps, RecordSpec

if TYPE_CHECKING:
    from PIL import Image


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
            spec: what to record, apart from its `background_prompt`, which `Backgrounds` records through this method.
            prompt: template with one `{expression}`, or a generic prompt without it; the source's own where None.

        Returns:
            One maps object per picture, with `background` None. Under a generic prompt its words are the prompt's.

        Raises:
            GroundingError: the expressions cannot be used, or nothing can be recorded.
        """
        ...


class Backgrounds:
    """Attention maps under a generic prompt, recorded once per picture.

    Maps of the latest call are kept and reused by the next one. The key is the picture's pixels and the whole spec,
    which includes the prompt. Make a new object when the source's weights change.

    Args:
        source: records the maps.
    """

    def __init__(self, source: MapSource) -> None:
        self._source = source
        self._known: dict[tuple[bytes, RecordSpec], AttentionMaps] = {}

    def of(self, images: Sequence[Image.Image], spec: RecordSpec) -> list[AttentionMaps]:
        """The maps under the spec's generic prompt, one per picture.

        Args:
            images: RGB pictures; equal pictures are recorded once.
            spec: what to record; its `background_prompt` is given.

        Raises:
            GroundingError: see `MapSource.maps`.
        """
        if spec.background_prompt is None:
            raise ValueError("the spec has no background_prompt: nothing to record")
        keys = [(fingerprint(image), spec) for image in images]
        self._known = {key: maps for key, maps in self._known.items() if key in keys}
        fresh = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if fresh:
            plain = replace(spec, background_prompt=None)
            recorded = self._source.maps(list(fresh.values()), [""] * len(fresh), plain, spec.background_prompt)
            self._known.update(zip(fresh, recorded, strict=True))
        return [self._known[key] for key in keys]


def maps_and_backgrounds(
    source: MapSource,
    images: Sequence[Image.Image],
    expressions: Sequence[str],
    spec: RecordSpec,
    prompt: str | None,
    backgrounds: Backgrounds,
) -> list[AttentionMaps]:
    """Record one batch, with the maps under the spec's generic prompt, if any, as `background`.

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
    maps = source.maps(images, expressions, replace(spec, background_prompt=None), prompt)
    if spec.background_prompt is None:
        return maps
    behind = backgrounds.of(images, spec)
    return [replace(one, background=other) for one, other in zip(maps, behind, strict=True)]


def fingerprint(image: Image.Image) -> bytes:
    """16 bytes that are equal for equal pixels; Pillow images can change in place, so identity does not suffice."""
    described = f"{image.mode} {image.width}x{image.height}"
    return hashlib.blake2b(image.tobytes() + described.encode(), digest_size=16).digest()
