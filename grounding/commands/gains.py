"""`grounding calibrate gains`: head gains that make true descriptions likelier, as a steering file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from grounding.commands.calibrate import check_out, sources_of
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError
from grounding.steering.fit_settings import FitSettings


@dataclass(frozen=True, kw_only=True)
class CalibrateGainsCommand:
    """Fit the gain of every head on image and on text so that true descriptions become likelier; write a steering file.

    The weights of the model are not changed. `--steer FILE` takes what is written. A sample that cannot be read is told
    and left out; the exit code is then 1.

    Attributes:
        out: steering file (YAML) to write.
        model: `starter`, `starter-photo`, a folder or a hub id.
        manifest: JSON lines with image, question and answer, the answer true of the image.
        scenes: how many drawn scenes instead, for models with the starter's vocabulary.
        scene_seed: of the scenes.
        fit: how.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        json: print one JSON object about the fit on stdout.
    """

    out: Path
    model: str = "starter"
    manifest: Path | None = None
    scenes: int | None = None
    scene_seed: int = 0
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"
    dtype: str = "auto"
    json: bool = False

    def run(self) -> int:
        """Fit and write."""
        check_out(self.out)
        sources = sources_of(self.manifest, self.scenes, self.scene_seed)
        from grounding.files import write_text
        from grounding.models.load import load
        from grounding.steering.fitting import fit_gains

        vlm = load(self.model, self.device, self.dtype)
        missed = 0
        with progress_bar(stderr()) as progress:
            task = progress.add_task("fit", total=len(sources) * self.fit.passes)

            def left_out(index: int, why: GroundingError) -> None:
                nonlocal missed
                missed += 1
                progress.console.print(f"sample {index + 1} is left out: {why}")

            found = fit_gains(vlm, sources, self.fit, left_out=left_out, advance=lambda: progress.advance(task))
        write_text(self.out, found.steering(self.out.stem, vlm.name, self.fit).to_yaml())
        if self.json:
            emit(
                {
                    "model": vlm.name,
                    "n": found.n,
                    "left_out": missed,
                    "data_sha256": found.data_sha256,
                    "curve": found.curve,
                    "file": str(self.out),
                }
            )
        else:
            stdout().print(
                f"gains of {vlm.layer_count} layers of {vlm.head_count} heads on {found.n} samples ({missed} "
                f"left out) in {self.out}; mean log-probability of an answer's token {found.curve[0]:.4f} in the first "
                f"pass, {found.curve[-1]:.4f} in the last"
            )
        return 1 if missed else 0
