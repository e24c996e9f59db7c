"""`grounding calibrate gains`: fit head gains that raise the probability of true descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from grounding.commands.calibration import check_out, check_sources, read_sources
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError
from grounding.steering.fit_settings import FitSettings


@dataclass(frozen=True, kw_only=True)
class CalibrateGainsCommand:
    """Fit a gain on image and one on text for every head, on true descriptions, and write a steering file.

    The model's weights do not change. Use the file with `--steer FILE`. A sample that cannot be read is reported on
    stderr and left out; the exit code is then 1.

    Attributes:
        out: steering file (YAML) to write.
        model: `starter`, `starter-photo`, a folder or a hub id.
        manifest: JSON lines with image, an answer that is true of the image, and optionally the question; left out, it
            is the model's own request for a description.
        scenes: number of drawn scenes instead of a manifest, for models with the starter's vocabulary.
        scene_seed: seed of the scenes.
        nouns: finder of the answers' nouns, which weigh more: `rules`, `spacy` or `spacy:MODEL` (extra nlp).
        fit: settings of the fit.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
        json: print one JSON object about the fit on stdout.
    """

    out: Path
    model: str = "starter"
    manifest: Path | None = None
    scenes: int | None = None
    scene_seed: int = 0
    nouns: str = "rules"
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"
    dtype: str = "auto"
    family: str | None = None
    json: bool = False

    def run(self) -> int:
        """Fit, and write the file."""
        check_out(self.out)
        sources = read_sources(self.manifest, self.scenes, self.scene_seed)
        from grounding.files import write_text
        from grounding.models.load import load
        from grounding.steering.fitting import fit_gains
        from grounding.text.parse import noun_finder

        vlm = load(self.model, self.device, self.dtype, finder=noun_finder(self.nouns), family=self.family)
        check_sources(vlm, self.scenes)
        missed = 0
        with progress_bar(stderr()) as progress:
            task = progress.add_task("fit", total=len(sources) * self.fit.passes)

            def left_out(index: int, error: GroundingError) -> None:
                nonlocal missed
                missed += 1
                progress.console.print(f"sample {index + 1} is left out: {error}")

            found = fit_gains(vlm, sources, self.fit, left_out=left_out, advance=lambda: progress.advance(task))
        model = vlm.name if self.nouns == "rules" else f"{vlm.name}, with nouns by {self.nouns},"
        write_text(self.out, found.steering(self.out.stem, model, self.fit).to_yaml())
        if self.json:
            emit(
                {
                    "model": vlm.name,
                    "n": found.n,
                    "left_out": missed,
                    "nouns": self.nouns,
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
