"""The options of every command that runs a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from grounding.candidates.rule import Kind
from grounding.errors import UsageError
from grounding.sources import load_source, method_for
from pipelines.choosing import load_concepts, with_candidates
from pipelines.referring import (
    DEFAULT_BATCH,
    DEFAULT_MODEL,
    DEFAULT_SEGMENTER,
    ReferringSegmentation,
)

if TYPE_CHECKING:
    from grounding.methods import Method
    from grounding.models.base import VLM
    from grounding.segmenters.base import Segmenter
    from grounding.source import MapSource
    from grounding.text.parse import NounFinder
    from pipelines.provenance import RunConfig


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which model, segmenter and method, and where they run.

    Attributes:
        model: `starter-photo` (knows some words of photos), `starter` or `starter-dit` (drawn scenes only; the
            latter, a diffusion transformer, writes no text), a folder written by save_pretrained, or a hub id. Several,
            joined by `+`, are an ensemble of their maps: `starter+starter-dit`.
        segmenter: `mobile-sam`, `sam:vit_b:FILE`, or the hub id or folder of a SAM, SAM 2 or SAM 3.
        method: a shipped method's name, a YAML file, or `auto`: a starter's own, otherwise `diffusion`, `default` or
            `ensemble`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: spread the model over several devices: `auto`.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
        nouns: what finds nouns: `rules`, or `spacy` (`spacy:MODEL`), which needs the extra nlp.
        seed: of random generators; the shipped methods draw nothing at random.
    """

    model: str = DEFAULT_MODEL
    segmenter: str = DEFAULT_SEGMENTER
    method: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    family: str | None = None
    nouns: str = "rules"
    seed: int = 0

    def chosen_method(self) -> Method:
        """The method that the options name."""
        return method_for(self.model, self.method)

    def config_for(self, segmenter: str) -> RunConfig:
        """The configuration of a run with a segmenter, made without loading the model.

        Raises:
            UsageError: --nouns is out of range.
            ModelError: the model's folder is missing, or the device or number format is unknown.
        """
        from pipelines.provenance import run_config

        kind, colon, model = self.nouns.partition(":")
        if self.nouns != "rules" and (kind != "spacy" or bool(colon) != bool(model)):
            raise UsageError(f"--nouns {self.nouns!r} was given, expected rules, spacy or spacy:MODEL")
        return run_config(
            self.model, segmenter, self.chosen_method(), self.device, self.dtype, self.seed, self.nouns, self.family
        )

    def load_vlm(self) -> VLM:
        """Load a vision-language model, and print its notice on stderr.

        Raises:
            ModelError: the model cannot be loaded, or is a diffusion pipeline.
        """
        from grounding.models.load import load

        vlm = load(self.model, self.device, self.dtype, self.device_map, self._prepared(), self.family)
        _print_notice(vlm)
        return vlm

    def load_source(self, method: Method) -> MapSource:
        """Load a vision-language model, a diffusion pipeline or an ensemble, and print its notice on stderr.

        Args:
            method: names the methods of an ensemble's members.
        """
        from grounding.model_files import is_pipeline, model_names

        if any(map(is_pipeline, model_names(self.model))) and find_spec("diffusers") is not None:
            from diffusers.utils.logging import disable_progress_bar

            disable_progress_bar()  # it counts parts
        source = load_source(
            self.model, self.device, self.dtype, self.device_map, self._prepared(), method, self.family
        )
        _print_notice(source)
        return source

    def _prepared(self) -> NounFinder:
        """The noun finder. Loading bars are turned off: they count tensors, and downloads have bars of their own."""
        from transformers.utils.logging import disable_progress_bar

        from grounding.text.parse import noun_finder

        finder = noun_finder(self.nouns)
        disable_progress_bar()
        return finder

    def load_segmenter(self) -> Segmenter:
        """Load the segmenter."""
        from grounding.segmenters.load import load_segmenter

        return load_segmenter(self.segmenter, self.device, self.dtype)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadOptions):
    """The options of a command that segments.

    Attributes:
        batch_size: most image and expression pairs in one forward pass.
        candidates: where masks come from: `points` (one prompt of the map's points), `boxes` (several prompts of
            different kinds), `auto` (all masks of the picture, from a grid of points), `sam3` (SAM 3's instances of the
            head noun); the model's attention chooses. The method's own by default.
        least_confidence: an answer of a lower confidence is none; the method's own by default, which always answers.
        verify: show the chosen region to the model again and ask whether it is what was asked for.
    """

    batch_size: int = DEFAULT_BATCH
    candidates: Kind | None = None
    least_confidence: float | None = None
    verify: bool = False

    def chosen_method(self) -> Method:
        """The method that the options name, with the candidates that they ask for."""
        return with_candidates(
            super().chosen_method(), self.candidates, self.least_confidence, verify=True if self.verify else None
        )

    def config(self) -> RunConfig:
        """What decides the results; made without loading the model.

        Raises:
            UsageError: an option is out of range.
            GroundingError: model or method are unknown.
        """
        if self.batch_size < 1:
            raise UsageError(
                f"a batch size of {self.batch_size} was asked for, expected at least 1: try --batch-size 1"
            )
        return self.config_for(self.segmenter)

    def load(self, check: Callable[[MapSource], None] | None = None, *, explain: bool = False) -> ReferringSegmentation:
        """Load model, segmenter and method, and print the model's notice on stderr.

        Args:
            check: refuses a model that cannot be used, before the segmenter is loaded.
            explain: keep an explanation with every result.
        """
        import torch

        torch.manual_seed(self.seed)
        method = self.chosen_method()
        source = self.load_source(method)
        if check is not None:
            check(source)
        concepts = load_concepts(method, self.device, self.dtype)
        return ReferringSegmentation(
            source, self.load_segmenter(), method, self.batch_size, explain=explain, concepts=concepts
        )


def _print_notice(source: MapSource) -> None:
    from grounding.console import stderr

    if source.notice:
        stderr().print(f"note: {source.notice}")
