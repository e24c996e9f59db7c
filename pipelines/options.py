"""The options that every command which runs a model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounding.errors import UsageError
from pipelines.referring import DEFAULT_BATCH, DEFAULT_MODEL, DEFAULT_SEGMENTER, ReferringSegmentation, method_for

if TYPE_CHECKING:
    from grounding.methods import Method
    from pipelines.provenance import RunConfig


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Which model, which segmenter, which method, and where they run.

    Attributes:
        model: `starter-photo` (knows some words of photos), `starter` (drawn scenes only), a folder written by
            save_pretrained, or a hub id.
        segmenter: `mobile-sam`, `sam:vit_b:FILE`, or the hub id or folder of a SAM, SAM 2 or SAM 3.
        method: a shipped method's name, a YAML file, or `auto`: a starter's own, else `default`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device_map: spread the model over several devices: `auto`.
        seed: where random generators start; the shipped methods draw nothing at random.
    """

    model: str = DEFAULT_MODEL
    segmenter: str = DEFAULT_SEGMENTER
    method: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    seed: int = 0

    def chosen_method(self) -> Method:
        """The method that the options name."""
        return method_for(self.model, self.method)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadOptions):
    """The options of a command that segments.

    Attributes:
        batch_size: most image and expression pairs in one forward pass.
    """

    batch_size: int = DEFAULT_BATCH

    def config(self) -> RunConfig:
        """What decides on the results; found without loading the model."""
        from pipelines.provenance import run_config

        if self.batch_size < 1:
            raise UsageError(
                f"a batch size of {self.batch_size} was asked for, expected at least 1: try --batch-size 1"
            )
        return run_config(self.model, self.segmenter, self.chosen_method(), self.device, self.dtype, self.seed)

    def load(self) -> ReferringSegmentation:
        """Load everything, and show the model's notice on stderr."""
        import torch
        from transformers.utils.logging import disable_progress_bar

        from grounding.console import stderr

        torch.manual_seed(self.seed)
        disable_progress_bar()  # a bar over a model's tensors says nothing; downloads have their own
        pipe = ReferringSegmentation.from_pretrained(
            self.model,
            self.segmenter,
            self.method,
            self.device,
            self.dtype,
            device_map=self.device_map,
            batch_size=self.batch_size,
        )
        if pipe.vlm.notice:
            stderr().print(f"note: {pipe.vlm.notice}")
        return pipe
