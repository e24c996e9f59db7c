"""Run a transformer on one picture and prompt as often as wanted, on the same noise every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grounding.attention.events import Scope, Subscriber
from grounding.attention.intercept import intercept
from grounding.attention.introspect import LayerStack
from grounding.attention.joint import record_joint
from grounding.diffusion.latents import draw_noise
from grounding.diffusion.maps import joint_maps, request_for
from grounding.diffusion.prompts import Encoded
from grounding.diffusion.reading import MapReading
from grounding.diffusion.sequence import Placement
from grounding.layers import share_of
from grounding.layout import ImageGrid
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, Word


class NoisySource(Protocol):
    """What runs: the part of a `DiffusionSource` that is needed here."""

    @property
    def transformer(self) -> Any:
        """The diffusion transformer."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The attention modules that relate text and image."""

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's number format."""

    def noisy(self, clean: Tensor, noise: Tensor, level: float) -> Tensor:
        """Mix noise into latents."""

    def inputs(self, noisy: Tensor, level: float, encoded: Encoded) -> dict[str, Any]:
        """The transformer's arguments."""


@dataclass(frozen=True, eq=False)
class NoisyRuns:
    """One picture and prompt, ready to be run.

    Attributes:
        source: runs.
        reading: noise levels, draws, softmax.
        clean: the picture's latents.
        encoded: the prompt.
        placement: positions of cells and of the text that is read.
        words: words that own that text.
        grids: the picture's grids.
    """

    source: NoisySource
    reading: MapReading
    clean: Tensor
    encoded: Encoded
    placement: Placement
    words: tuple[Word, ...]
    grids: tuple[ImageGrid, ...]

    def maps(self, spec: RecordSpec, editor: Subscriber | None = None, start: float = 0.0) -> AttentionMaps:
        """Record the maps of all noise levels and draws.

        Args:
            spec: what to record.
            editor: edits the attention of the blocks; None edits nothing.
            start: where the edited blocks begin, as a share of the depth.
        """
        source, reading = self.source, self.reading
        layers, request, recordings = list(source.layers), request_for(self.placement, reading, spec), []
        with _edited(source.transformer, layers, editor, start):
            for level in reading.levels:
                with record_joint(source.transformer, layers, request) as recording:
                    for draw in range(reading.draws):
                        noise = draw_noise(self.clean, reading.seed + draw)
                        noisy = source.noisy(self.clean, noise, level).to(source.dtype)
                        source.transformer(**source.inputs(noisy, level, self.encoded), return_dict=False)
                recordings.append(recording)
        return joint_maps(recordings, request, self.words, self.placement, self.grids, len(layers))


@contextmanager
def _edited(
    transformer: nn.Module, layers: Sequence[nn.Module], editor: Subscriber | None, start: float
) -> Iterator[None]:
    if editor is None:
        yield
        return
    scope = Scope(range(share_of(start, len(layers)), len(layers)), edits=True)
    with intercept(transformer, editor, scope, stack=LayerStack(transformer, nn.ModuleList(layers))):
        yield
