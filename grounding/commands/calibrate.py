"""`grounding calibrate sensitivity`: which heads of a model see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, ManifestError, OutputError

if TYPE_CHECKING:
    from grounding.steering.samples import Source


def sources_of(manifest: Path | None, scenes: int | None, seed: int) -> list[Source]:
    """The samples that a calibration was given.

    Raises:
        ManifestError: both or none were given, or they cannot be read.
    """
    from grounding.steering.samples import manifest_samples, scene_samples

    if manifest is not None and scenes is not None:
        raise ManifestError("samples were given twice, as --manifest and as --scenes: choose one")
    if manifest is not None:
        return manifest_samples(manifest)
    if scenes is None:
        raise ManifestError("no samples were given: choose --manifest FILE.jsonl or --scenes N")
    if scenes < 1 or seed < 0:
        raise ManifestError(f"--scenes {scenes} --seed {seed} were given, expected at least 1 scene and a seed from 0")
    return scene_samples(scenes, seed)


def check_out(out: Path) -> None:
    """Refuse a folder before anything is measured.

    Raises:
        OutputError: `out` is one.
    """
    if out.is_dir():
        raise OutputError(f"--out {out} is a folder: name a YAML file in it")


@dataclass(frozen=True, kw_only=True)
class CalibrateSensitivityCommand:
    """Measure how much each head sees, on drawn scenes or on answers of your own, and write a small YAML file.

    A steering file names it at a step's heads: `heads: {sensitivity: FILE.yaml, rule: top, top: 0.25}`. A sample that
    cannot be measured is told and left out; the exit code is then 1.

    Attributes:
        out: YAML file to write.
        model: `starter`, `starter-photo`, a folder or a hub id.
        kind: `mass`, attention on image keys that are no sinks; `ablation`, fall of the answer's log-probability when
            the head's image part is removed; `gradient`, the same to first order, far cheaper; `agreement`, share of
            the image attention that lies on the mask.
        manifest: JSON lines with image, question and answer, and where wanted word (of the answer, else all of it)
            and mask (a picture, not black on the object; `agreement` needs it).
        scenes: how many drawn scenes instead, for models with the starter's vocabulary.
        seed: of the scenes.
        sink_tau: from which phi on an image key is a sink, for `mass` and `agreement`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        json: print one JSON object about what was measured on stdout.
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
    json: bool = False

    def run(self) -> int:
        """Measure and write."""
        check_out(self.out)
        from grounding.models.load import load
        from grounding.steering.measure import calibrate

        sources = sources_of(self.manifest, self.scenes, self.seed)
        vlm = load(self.model, self.device, self.dtype)
        with progress_bar(stderr()) as progress:
            task = progress.add_task("measure", total=len(sources))

            def left_out(index: int, why: GroundingError) -> None:
                progress.console.print(f"sample {index + 1} is left out: {why}")

            found = calibrate(
                vlm,
                sources,
                self.kind,
                seed=self.seed if self.manifest is None else None,
                sink_tau=self.sink_tau,
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
