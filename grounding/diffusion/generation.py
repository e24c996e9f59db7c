"""Record maps of every step while a pipeline generates a picture or a clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from grounding.attention.events import Pass
from grounding.attention.joint import JointRequest, record_joint
from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.maps import joint_maps, request_for
from grounding.diffusion.prompts import Observed
from grounding.diffusion.sequence import LatentShape, Placement, grids_of
from grounding.errors import RecordingError
from grounding.joint_spec import Readout
from grounding.record_spec import RecordSpec
from grounding.source import SLOT
from grounding.types import AttentionMaps


@dataclass
class GenerationMaps:
    """What `record_generation` kept; `maps` is there once the block has ended without an error."""

    _maps: AttentionMaps | None = None

    @property
    def maps(self) -> AttentionMaps:
        """Maps [S, L, H, T, K] with one entry of S per step, over the generated picture.

        Raises:
            RecordingError: the block has not ended.
        """
        if self._maps is None:
            raise RecordingError(
                "the recording is not complete: call the pipeline inside the block and read the maps after it has ended"
            )
        return self._maps


@contextmanager
def record_generation(
    source: DiffusionSource, prompt: str, spec: RecordSpec | None = None, picture: int = 0
) -> Iterator[GenerationMaps]:
    """Record maps of every step of a pipeline's own call inside the block.

    >>> with record_generation(source, "a red cup") as recording:  # doctest: +SKIP
    ...     image = source.pipe("a red cup", num_inference_steps=4).images[0]
    >>> recording.maps.values.shape[0]  # doctest: +SKIP
    4

    The pipeline encodes and pads the prompt as it always does, so padding is in the network; maps leave it out unless
    the source reads with `pads="keep"`. Of guidance, the half that reads the prompt is recorded.

    Args:
        source: the source around the pipeline.
        prompt: the prompt that the pipeline is called with.
        spec: what to record; everything where None.
        picture: which of several pictures per prompt is recorded, counted from 0.

    Raises:
        ExpressionError: the prompt cannot be used; see `DiffusionSource.maps`.
        RecordingError: the pipeline did not run, or with another prompt.
        BudgetError: the request exceeds its budget.
    """
    spec = spec or RecordSpec()
    if spec.magnets is not None:
        raise RecordingError(
            "a pipeline that generates encodes its own prompt, so no magnets can be appended to it: record without "
            "magnets, or write them into the prompt"
        )
    readout = spec.readout or Readout()
    changed = replace(readout, what="outputs", temperature=1.0, unit=False) != Readout("outputs")
    if spec.sinks is not None or changed:
        raise RecordingError(
            "a pipeline that generates runs on its own noise and prompt, unedited: leave edits of sinks out of the "
            "method, and levels, draws, concepts and pooled out of its readout"
        )
    read = source.prompt(prompt, SLOT)
    source.tokens(read.text)
    follower = _Follower(source, read.text, spec, picture)
    unknown = Placement(1, (0,), 0, 0, joint=source.attention != "cross")
    first = request_for(unknown, source.reading, spec, mean=False)
    recording = GenerationMaps()
    with record_joint(source.transformer, list(source.layers), first, follower.plan) as joint:
        yield recording
    assert follower.placement is not None
    assert follower.shape is not None
    placement, shape, unit = follower.placement, follower.shape, source.cell_pixels
    words = source.words(read, follower.tokens, placement)
    size = (shape.width * unit, shape.height * unit)
    grids = grids_of(placement, shape, size, source.video, source.frames_per_latent)
    recording._maps = joint_maps([joint], follower.request, words, placement, grids, source.layer_count)


class _Follower:
    """Find the positions of every pass, and the passes and elements that read the prompt."""

    def __init__(self, source: DiffusionSource, text: str, spec: RecordSpec, picture: int) -> None:
        self._source, self._text, self._spec, self._picture = source, text, spec, picture
        self._last: float | None = None
        self.tokens = source.tokens(text)
        self.placement: Placement | None = None
        self.shape: LatentShape | None = None
        self.request: JointRequest
        self._negative_first = False

    def plan(self, running: Pass) -> JointRequest | None:
        """The request of a pass; None for one that reads the negative prompt, or repeats a step without blocks."""
        moment = _timestep(running)
        if moment == self._last:
            return None
        self._last = moment
        seen = self._source.observe(running)
        if self.placement is None:
            self._settle(seen)
        element = self._element(seen)
        self.request = replace(
            request_for(self.placement, self._source.reading, self._spec, mean=False),  # type: ignore[arg-type]
            element=element,
            batch=seen.batch,
        )
        return self.request

    def _settle(self, seen: Observed) -> None:
        if seen.text_length < len(self.tokens):
            raise RecordingError(
                f"the pipeline runs on {seen.text_length} text tokens, but the prompt {self._text!r} has "
                f"{len(self.tokens)}: give record_generation the prompt that the pipeline is called with, and the "
                "pipeline a max_sequence_length that holds it"
            )
        self.tokens = self._source.tokens(self._text, seen.text_length)
        self.shape = seen.latents
        # Asked once, because some pipelines change the guidance scale from step to step.
        self._negative_first = self._source.guided and self._source.guidance == "negative-first"
        self.placement = self._source.placement(self.tokens, seen.latents)

    def _element(self, seen: Observed) -> int:
        start = seen.batch // 2 if self._negative_first else 0
        count = seen.batch - start
        if self._picture >= count:
            raise RecordingError(f"picture {self._picture} does not exist: the pipeline generates {count}")
        return start + self._picture


def _timestep(running: Pass) -> float:
    given: Any = next(value for name in ("timestep", "t") if (value := (running.inputs or {}).get(name)) is not None)
    return float(torch.as_tensor(given).flatten()[0])
