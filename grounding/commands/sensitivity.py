"""`grounding calibrate sensitivity`: measure how much each head depends on the image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from grounding.commands.calibration import check_out, check_sources, read_sources
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError


@dataclass(frozen=True, kw_only=True)
class CalibrateSensitivityCommand:
    """Measure how much each head depends on the image, and write the values to a YAML file.

    A steering file refers to it in a step's heads: `heads: {sensitivity: FILE.yaml, rule: top, top: 0.25}`. A sample
    that cannot be measured is reported on stderr and left out; the exit code is then 1.

    Attributes:
        out: YAML file to write.
        model: `starter`, `starter-photo`, a folder or a hub id.
        kind: `mass`, attention on image keys that are not sinks; `ablation`, fall of the answer's log-probability when
            the head's output from image keys is removed; `gradient`, its first-order estimate, far cheaper;
            `agreement`, share of the image attention on the mask.
        manifest: JSON lines with image, answer, and optionally question (the model's own request for a description if
            missing), word (of the answer; all of it if missing) and mask (an image, not black on the object; required
            by `agreement`).
        scenes: number of drawn scenes instead of a manifest, for models with the starter's vocabulary.
        seed: seed of the scenes.
        sink_tau: phi from which an image key counts as a sink, for `mass` and `agreement`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
        json: print one JSON object about the measurement on stdout.
    """

    out: Path
    model: str = "starter"
    kind: Literal["mass", "ablation", "gradient", "agreement"] = "gradient"
    manifest: Path | None = None
    scenes: int | None = None
    seed: int = 0
    sink_tau: float = 20.0
    device: str = "auto"
    dtype: str = "auto"
    family: str | None = None
    json: bool = False

    def run(self) -> int:
        """Measure, and write the file."""
        check_out(self.out)
        if self.sink_tau <= 0:
            raise UsageError(f"--sink-tau {self.sink_tau} was given, expected a number above 0")
        from grounding.attention.sinks import SinkRule
        from grounding.models.load import load
        from grounding.steering.measure import calibrate

        sources = read_sources(self.manifest, self.scenes, self.seed)
        vlm = load(self.model, self.device, self.dtype, family=self.family)
        check_sources(vlm, self.scenes)
        with progress_bar(stderr()) as progress:
            task = progress.add_task("measure", total=len(sources))

            def left_out(index: int, error: GroundingError) -> None:
                progress.console.print(f"sample {index + 1} is left out: {error}")

            found = calibrate(
                vlm,
                sources,
                self.kind,
                seed=self.seed if self.manifest is None else None,
                sinks=SinkRule(self.sink_tau),
                left_out=left_out,
                advance=lambda: progress.advance(task),
            )
        found.save(self.out)
        missed = len(sources) - found.n
        if self.json:
            emit({**asdict(found), "left_out": missed, "file": str(self.out)})
        else:
            values = found.array()
            layer, head = divmod(int(values.argmax()), values.shape[1])
            stdout().print(
                f"{found.kind} of {values.shape[0]} layers of {values.shape[1]} heads on {found.n} samples "
                f"({missed} left out) in {self.out}; the highest is head {head} of layer {layer}, "
                f"{values[layer, head]:.4g}"
            )
        return 1 if missed else 0
