"""`grounding calibrate heads`: rank the heads that localise objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from grounding.commands.calibration import check_out, check_sources
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError


@dataclass(frozen=True, kw_only=True)
class CalibrateHeadsCommand:
    """Rank a model's heads by how well they localise what an expression names, and write them to a YAML file.

    A method file refers to it: `{stage: heads-fixed, heads: FILE.yaml, count: 3}`. A sample that cannot be used is
    reported on stderr and left out; the exit code is then 1.

    Attributes:
        out: YAML file to write.
        model: `starter`, `starter-photo`, a folder or a hub id.
        rule: `entropy`, how often a head is among those of lowest spatial entropy, of heads with enough attention on
            the image (Kang et al., CVPR 2025); `share`, attention on the image; `contrast`, what changes in a head when
            the words name something else; `agreement`, share of the image attention on the mask; `causal`, fall of the
            answer's log-probability without what the head reads from the mask's cells. The first three need no labels.
        data: JSON lines with image and expression, and optionally other (an expression for something else; the next
            one of the file if missing), mask (an image, not black on the object; required by `agreement` and `causal`),
            answer (required by `causal`), its question and the word of it that is measured.
        scenes: number of drawn scenes instead of a file, for models with the starter's vocabulary.
        seed: seed of the scenes.
        row: the row of attention that is judged: the prompt's `last` token, or the expression's content `words`.
        cut: for `entropy`, where the sorted attention on the image is cut: `curvature`, at its sharpest bend, as the
            paper says; `chord`, at the largest distance below the chord between its ends; `none`.
        min_share: for `entropy`, the least attention on the image in [0, 1], instead of a cut.
        skip_layers: for `entropy`, how many of the first layers are left out.
        marked: for `entropy`, heads marked per sample, at most half of those left.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        json: print one JSON object about the ranking on stdout.
    """

    out: Path
    model: str = "starter"
    rule: Literal["entropy", "share", "contrast", "agreement", "causal"] = "entropy"
    data: Path | None = None
    scenes: int | None = None
    seed: int = 0
    row: Literal["last", "words"] = "last"
    cut: Literal["curvature", "chord", "none"] = "curvature"
    min_share: float | None = None
    skip_layers: int = 2
    marked: int = 10
    device: str = "auto"
    dtype: str = "auto"
    json: bool = False

    def run(self) -> int:
        """Rank, and write the file."""
        check_out(self.out)
        from grounding.localization.calibrate import HeadSettings, rank_heads
        from grounding.localization.ranking import EntropyRule
        from grounding.localization.samples import Source, manifest_samples
        from grounding.models.load import load
        from grounding.scenes.samples import head_samples

        if (self.data is None) == (self.scenes is None):
            raise UsageError("choose the samples by one of --data FILE.jsonl and --scenes N")
        if self.scenes is not None and (self.scenes < 1 or self.seed < 0):
            raise UsageError(
                f"--scenes {self.scenes} with seed {self.seed} was given, expected at least 1 scene and a seed from 0"
            )
        rule = EntropyRule(self.cut, self.min_share, self.skip_layers, self.marked)
        sources: list[Source] = (
            head_samples(self.scenes or 0, self.seed) if self.data is None else manifest_samples(self.data)
        )
        vlm = load(self.model, self.device, self.dtype)
        check_sources(vlm, self.scenes)
        with progress_bar(stderr()) as progress:
            task = progress.add_task("rank", total=len(sources))

            def left_out(index: int, error: GroundingError) -> None:
                progress.console.print(f"sample {index + 1} is left out: {error}", markup=False, highlight=False)

            found = rank_heads(
                vlm,
                sources,
                HeadSettings(self.rule, self.row, rule),
                seed=self.seed if self.data is None else None,
                left_out=left_out,
                advance=lambda: progress.advance(task),
            )
        ranking = found.ranking
        ranking.save(self.out)
        missed = len(sources) - ranking.n
        if self.json:
            emit({**asdict(ranking), "spearman": found.spearman, "left_out": missed, "file": str(self.out)})
        else:
            best = ", ".join(f"{layer}.{head}" for layer, head, _ in ranking.ranking[:5])
            against = "" if found.spearman is None else f"; rank correlation with the masks {found.spearman:.2f}"
            stdout().print(
                f"{len(ranking.ranking)} of {ranking.layers * ranking.heads} heads ranked by {ranking.rule} on "
                f"{ranking.n} samples ({missed} left out) in {self.out}; the best (layer.head) {best}{against}"
            )
        return 1 if missed else 0
