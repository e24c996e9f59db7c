"""`grounding scenes`: write a data set of drawn scenes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ScenesCommand:
    """Draw scenes of shapes and write images, exact masks and referring expressions.

    Writes images/*.png, instances.json (COCO format, run-length masks) and expressions.jsonl, a manifest for
    `grounding segment --manifest`, to OUT.

    Attributes:
        seed: seed of the set; the same seed gives the same bytes.
        n: number of scenes.
        out: folder to write to.
        json: print one JSON object about the written files on stdout.
    """

    seed: int = 0
    n: int = 20
    out: Path = Path("scenes")
    json: bool = False

    def run(self) -> int:
        """Draw the scenes, and write them."""
        from grounding.scenes.files import EXPRESSIONS, write_scenes

        if self.n < 1 or self.seed < 0:
            raise UsageError(f"--n {self.n} --seed {self.seed} were given, expected n of at least 1 and a seed from 0")
        with progress_bar(stderr()) as progress:
            task = progress.add_task("draw", total=self.n)
            written = write_scenes(self.out, self.seed, self.n, lambda: progress.advance(task))
        if self.json:
            emit({**asdict(written), "folder": str(self.out), "manifest": str(self.out / EXPRESSIONS)})
        else:
            stdout().print(
                f"{written.scenes} scenes with {written.objects} objects and {written.expressions} expressions "
                f"in {self.out}"
            )
        return 0
